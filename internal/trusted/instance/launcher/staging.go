package launcher

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/trusted/wire"
)

// The launcher gathers what the app's root is made of below a directory that
// exists in its own mount namespace alone. It lies in /dev because that is the
// one place of the profile that is always there and always memory.
const (
	stagingDir = "/dev/.cupel"
	rootDir    = stagingDir + "/root"   // tmpfs: the writable part of the app's root
	mergedDir  = rootDir + "/merged"    // where stage 2 mounts the app's root
	volumesDir = stagingDir + "/volume" // below it one tmpfs for each volume
)

// stage makes the staging directory. The writable part of the app's root is
// bounded by its share of memory, so that an app that fills it meets "no space
// left" and not the memory limit.
func stage(mem memoryView) (noswap bool, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return false, fmt.Errorf("make mounts private: %w", err)
	}

	if err := os.Mkdir(stagingDir, 0o700); err != nil {
		return false, fmt.Errorf("make staging directory: %w", err)
	}

	noswap, err = mountTmpfs(stagingDir, 1<<20, 0o700)
	if err != nil {
		return false, err
	}

	for _, dir := range []string{rootDir, volumesDir} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return false, fmt.Errorf("make staging directory: %w", err)
		}
	}
	if _, err := mountTmpfs(rootDir, wire.RootSize(mem.limit), 0o700); err != nil {
		return false, err
	}

	for _, dir := range []string{"upper", "work", "merged"} {
		// The upper directory's mode becomes that of the app's /.
		if err := os.Mkdir(filepath.Join(rootDir, dir), 0o755); err != nil {
			return false, fmt.Errorf("make staging directory: %w", err)
		}
	}

	return noswap, resizeShm(mem.limit)
}

// mountTmpfs mounts memory at target, out of swap's reach where the kernel can
// do that (noswap says whether).
func mountTmpfs(target string, size uint64, mode uint32) (noswap bool, err error) {
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	options := fmt.Sprintf("size=%d,mode=%o", size, mode)

	err = unix.Mount("cupel", target, "tmpfs", flags, options+",noswap")
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, unix.EINVAL) {
		return false, fmt.Errorf("mount memory at %s: %w", target, err)
	}

	if err := unix.Mount("cupel", target, "tmpfs", flags, options); err != nil {
		return false, fmt.Errorf("mount memory at %s: %w", target, err)
	}
	return false, nil
}
