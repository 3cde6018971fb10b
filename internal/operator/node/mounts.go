package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// UnmountBelow detaches every mount below dir, deepest first.
func UnmountBelow(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}

	points := mountsBelow(string(b), filepath.Clean(dir))
	var errs []error
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// mountsBelow returns the mount points below dir out of the text of mountinfo
// (proc_pid_mountinfo(5)), deepest first. Where several mounts cover each other at one
// place, it comes up once for each.
func mountsBelow(mountinfo, dir string) []string {
	var points []string
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if p := UnescapeMount(f[4]); strings.HasPrefix(p, dir+"/") {
			points = append(points, p)
		}
	}

	slices.Sort(points)
	slices.Reverse(points)
	return points
}

// UnescapeMount undoes the kernel's octal escapes in mountinfo (getmntent(3)).
func UnescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
