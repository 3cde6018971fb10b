package launcher

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
)

// memoryView is what the kernel says about the instance's memory: its limit,
// and whether it can be swapped to the host's disk.
type memoryView struct {
	limit  uint64 // bytes
	noSwap bool   // nothing of this instance is ever swapped
	why    string // for people: what noSwap rests on
}

// hostFiles is where a memoryView comes from: real mounts, or fixtures.
type hostFiles struct {
	cgroup string // /proc/self/cgroup
	swaps  string // /proc/swaps
	v1, v2 fs.FS  // roots of the memory controller's hierarchy and of the unified one; nil: not there
	total  uint64 // the machine's memory in bytes
}

// unlimited is where cgroup v1 begins to mean "no limit": the largest multiple
// of a page below 2^63.
const unlimited = 1 << 62

// view reads the limit and judges swap. A cgroup that tells nothing leaves the
// machine's memory as the limit.
func (h hostFiles) view() (memoryView, error) {
	paths, err := parseCgroup(h.cgroup)
	if err != nil {
		return memoryView{}, err
	}

	v := memoryView{limit: h.total}
	swapless := !hasSwap(h.swaps)
	if p, ok := paths["memory"]; ok && h.v1 != nil {
		limit, err := readLimit(h.v1, p, "memory.limit_in_bytes")
		if err != nil {
			return memoryView{}, err
		}
		v.limit = min(v.limit, limit)

		both, err := readLimit(h.v1, p, "memory.memsw.limit_in_bytes")
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return memoryView{}, err
		default:
			swappiness, serr := readLimit(h.v1, p, "memory.swappiness")
			if serr == nil && both == limit && limit < unlimited && swappiness == 0 {
				v.noSwap, v.why = true, "cgroup v1: memory and swap limited together, swappiness 0"
			}
		}
	} else if p, ok := paths[""]; ok && h.v2 != nil {
		limit, err := readLimit(h.v2, p, "memory.max")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return memoryView{}, err
		}
		if err == nil {
			v.limit = min(v.limit, limit)
		}

		if swap, err := readLimit(h.v2, p, "memory.swap.max"); err == nil && swap == 0 {
			v.noSwap, v.why = true, "cgroup v2: memory.swap.max is 0"
		}
	}

	if !v.noSwap && swapless {
		v.noSwap, v.why = true, "the machine has no swap"
	}
	return v, nil
}

// parseCgroup reads /proc/self/cgroup: controller -> path; "" is the unified
// hierarchy.
func parseCgroup(text string) (map[string]string, error) {
	paths := map[string]string{}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 || !strings.HasPrefix(fields[2], "/") {
			return nil, problem.New(problem.Internal, ruleCgroup, "the kernel's line %q is not understood", clip(line))
		}

		for c := range strings.SplitSeq(fields[1], ",") {
			paths[c] = path.Clean(fields[2])
		}
	}
	return paths, nil
}

// readLimit reads one number out of a cgroup's file; "max" is the largest.
func readLimit(root fs.FS, cgroup, file string) (uint64, error) {
	b, err := fs.ReadFile(root, path.Join(strings.TrimPrefix(cgroup, "/"), file))
	if err != nil {
		return 0, fmt.Errorf("read cgroup: %w", err)
	}

	s := strings.TrimSpace(string(b))
	if s == "max" {
		return 1<<64 - 1, nil
	}

	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, problem.New(problem.Internal, ruleCgroup, "%s says %q", file, clip(s))
	}
	return n, nil
}

// hasSwap reports whether /proc/swaps lists anything below its heading.
func hasSwap(swaps string) bool {
	return strings.Count(strings.TrimSpace(swaps), "\n") > 0
}

// checkSwap refuses an instance whose secrets could reach the host's disk:
// unless the whole instance is kept from it, or at least everything that the
// launcher puts into files (noswap tmpfs).
func checkSwap(v memoryView, noswapTmpfs bool) error {
	if v.noSwap || noswapTmpfs {
		return nil
	}
	return problem.New(problem.Denied, ruleSwap, "the instance's memory can be swapped to the host's disk").
		Want("cgroup v2 memory.swap.max 0, or v1 memsw limit = memory limit and swappiness 0, or no swap, or a kernel with noswap").
		Fix("start the instance by the launch profile, or turn the machine's swap off")
}

// mountDetached mounts a file system that no path leads to, and returns its
// descriptor.
func mountDetached(fsType string, flags ...string) (int, error) {
	ctx, err := unix.Fsopen(fsType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open file system %s: %w", fsType, err)
	}
	defer unix.Close(ctx)

	for _, f := range flags {
		if err := unix.FsconfigSetFlag(ctx, f); err != nil {
			return -1, fmt.Errorf("configure %s with %s: %w", fsType, f, err)
		}
	}

	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, fmt.Errorf("create %s: %w", fsType, err)
	}

	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return -1, fmt.Errorf("mount %s: %w", fsType, err)
	}
	return fd, nil
}
