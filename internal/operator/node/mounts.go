package node

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// UnmountBelow detaches every mount below dir, deepest first.
func UnmountBelow(dir string) error {
	list, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	defer list.Close()

	points, err := mountsBelow(list, filepath.Clean(dir))
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// mountsBelow returns the mount points below dir out of the kernel's list of mounts
// (proc_pid_mountinfo(5)), deepest first. Where several mounts cover each other at one
// place, it comes up once for each.
func mountsBelow(list io.Reader, dir string) ([]string, error) {
	mounts, err := mountinfo.GetMountsFromReader(list, mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}

	var points []string
	for _, m := range mounts {
		if m.Mountpoint != dir {
			points = append(points, m.Mountpoint)
		}
	}
	slices.Sort(points)
	slices.Reverse(points)
	return points, nil
}
