package launcher

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// enterRoot builds the app's root and makes it this process's: the image below,
// memory above, the kernel's own file systems and the two network files as the
// launcher has them (masks included), the volumes. The sockets of LAS and node
// and the staging directory stay behind with the old root.
//
// The caller is alone in its mount namespace.
func enterRoot(volumes []planVolume) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}

	options := "index=off,lowerdir=/,upperdir=" + rootDir + "/upper,workdir=" + rootDir + "/work"
	if err := unix.Mount("cupel", mergedDir, "overlay", unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
		return fmt.Errorf("mount the app's root: %w", err)
	}

	binds := []struct {
		path      string
		recursive bool
		optional  bool
	}{
		{"/proc", true, false}, {"/sys", true, true},
		{"/dev", false, false}, {"/dev/pts", true, true}, {"/dev/shm", true, true}, {"/dev/mqueue", true, true},
		{"/etc/resolv.conf", false, true}, {"/etc/hosts", false, true},
	}
	for _, b := range binds {
		flags := uintptr(unix.MS_BIND)
		if b.recursive {
			flags |= unix.MS_REC
		}

		target := filepath.Join(mergedDir, b.path)
		if err := makeTarget(b.path, target); err != nil {
			return err
		}
		err := unix.Mount(b.path, target, "", flags, "")
		if err != nil && (!b.optional || !errors.Is(err, unix.ENOENT)) {
			return fmt.Errorf("mount %s: %w", b.path, err)
		}
	}

	trees, err := cloneVolumes(volumes)
	if err != nil {
		return err
	}

	if err := pivot(mergedDir); err != nil {
		return err
	}

	for i, v := range volumes {
		if err := os.MkdirAll(v.Path, 0o755); err != nil {
			return fmt.Errorf("make mount point of a volume: %w", err)
		}
		err := unix.MoveMount(trees[i], "", unix.AT_FDCWD, v.Path, unix.MOVE_MOUNT_F_EMPTY_PATH)
		_ = unix.Close(trees[i])
		if err != nil {
			return fmt.Errorf("mount volume at %s: %w", v.Path, err)
		}
	}
	return nil
}

// makeTarget makes a directory to mount source onto, where source is one and
// the image lacks it.
func makeTarget(source, target string) error {
	info, err := os.Stat(source)
	if err != nil || !info.IsDir() {
		return nil // mounting tells
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	return nil
}

// cloneVolumes takes each volume's mount along as a descriptor, over the
// change of roots.
func cloneVolumes(volumes []planVolume) ([]int, error) {
	var trees []int
	for _, v := range volumes {
		fd, err := unix.OpenTree(unix.AT_FDCWD, v.Dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("take volume along: %w", err)
		}
		trees = append(trees, fd)
	}
	return trees, nil
}

// pivot makes dir the root and detaches the old one, which lies on top of the
// new for a moment: pivot_root(2), "pivot_root(".", ".")".
func pivot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter the app's root: %w", err)
	}

	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to the app's root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the app's root: %w", err)
	}
	return nil
}

// writeFiles puts the released files into the app's root, owned by its user.
// What is at a path already is replaced, never followed.
func writeFiles(files []wire.File, owner appUser) error {
	for _, f := range files {
		if err := writeFile(f, owner); err != nil {
			return problem.New(problem.Invalid, ruleInjectionFile, "%s: %w", f.Path, err).
				Want("a path whose parents are directories, with room in a quarter of the memory limit")
		}
	}
	return nil
}

func writeFile(f wire.File, owner appUser) (err error) {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}

	if err := os.Remove(f.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}

	out, err := os.OpenFile(f.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := out.Close(); err == nil {
			err = cerr
		}
	}()

	if _, err := out.Write(f.Content); err != nil {
		return err
	}

	if err := out.Chown(owner.UID, owner.GID); err != nil {
		return err
	}
	return out.Chmod(os.FileMode(f.Mode))
}
