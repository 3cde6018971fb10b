package launcher

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sealProcess makes the launcher's memory unreadable for anybody but the kernel:
// no ptrace, no /proc/1/mem, no core.
func sealProcess() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process undumpable: %w", err)
	}
	return noCores()
}

// noCores turns core dumps off for this process and all below it. One byte is
// the limit at which the kernel writes no file and also starts no helper, which
// it would at zero when core_pattern is a pipe; where the host allows zero at
// most, zero is set.
func noCores() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}); err == nil {
		return nil
	}

	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("turn core dumps off: %w", err)
	}
	return nil
}

// procfs is a proc file system of the launcher's own, mounted where no path
// leads to: what it says can't be covered by a mount over /proc or in it.
type procfs int

func openProc() (procfs, error) {
	fd, err := mountDetached("proc")
	return procfs(fd), err
}

func (p procfs) close() { _ = unix.Close(int(p)) }

// read reads one file, named from the root of the file system.
func (p procfs) read(name string) (string, error) {
	fd, err := unix.Openat(int(p), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: "/proc/" + name, Err: err}
	}

	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return "", fmt.Errorf("read /proc/%s: %w", name, err)
	}
	return string(b), nil
}

// readMemory gathers what memoryView needs from the kernel. The profile mounts
// no cgroups, so they are mounted here, where no path leads to.
func readMemory(proc procfs) (memoryView, error) {
	cgroup, err := proc.read("self/cgroup")
	if err != nil {
		return memoryView{}, err
	}

	swaps, err := proc.read("swaps")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return memoryView{}, err
	}

	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return memoryView{}, fmt.Errorf("read the machine's memory: %w", err)
	}

	h := hostFiles{cgroup: cgroup, swaps: swaps, total: info.Totalram * uint64(info.Unit)}
	if strings.Contains(h.cgroup, ":memory:") || strings.Contains(h.cgroup, ",memory:") || strings.Contains(h.cgroup, ":memory,") {
		if fd, err := mountDetached("cgroup", "memory"); err == nil {
			defer unix.Close(fd)
			h.v1 = fdFS(fd)
		}
	} else if fd, err := mountDetached("cgroup2"); err == nil {
		defer unix.Close(fd)
		h.v2 = fdFS(fd)
	}

	return h.view()
}

// fdFS is the tree below an open directory.
func fdFS(fd int) fs.FS { return os.DirFS(fdPath(fd)) }

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
