package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"cupel.dev/cupel/api/problem"
)

// Path names a control group below the place where its tree is mounted, as in /cupel-ID/INSTANCE.
type Path string

// Tree is the machine's mounted control groups.
type Tree struct {
	v2   bool
	dirs map[string]string // v1: controller -> mount point; v2: "" -> mount point
}

// Detect looks at what is mounted below root, usually /sys/fs/cgroup.
func Detect(root string) (*Tree, error) {
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return &Tree{v2: true, dirs: map[string]string{"": root}}, nil
	}

	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, noControlGroups("%s: %w", root, err)
	}

	t := &Tree{dirs: map[string]string{}}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
			continue
		}
		// "cpu,cpuacct" is one tree of two controllers.
		for c := range strings.SplitSeq(e.Name(), ",") {
			t.dirs[c] = dir
		}
	}

	if t.dirs["memory"] == "" {
		return nil, noControlGroups("no memory controller is mounted below %s", root)
	}
	return t, nil
}

// noControlGroups is the refusal of a place that has no control groups: mostly a mount namespace
// with a /sys of its own.
func noControlGroups(format string, args ...any) error {
	return problem.New(problem.Unavailable, ruleControlGroups, format, args...).
		Want("the machine's control groups, of version 2 or with a memory controller").
		Fix("where 'ip netns exec' or the like started this, which mounts another /sys, use nsenter --net= in its place; else mount them there")
}

// V2 reports whether this is the unified hierarchy.
func (t *Tree) V2() bool { return t.v2 }

// Memory is what a group's memory controller counts.
type Memory struct {
	Used     uint64 // bytes, without the page cache that can be dropped
	OOMKills uint64 // processes that the kernel killed since the group began
}

// Memory reads the counters of the group at path. A group that is gone gives
// fs.ErrNotExist.
func (t *Tree) Memory(path Path) (Memory, error) {
	usage, events, inactive := "memory.usage_in_bytes", "memory.oom_control", "total_inactive_file"
	if t.v2 {
		usage, events, inactive = "memory.current", "memory.events", "inactive_file"
	}

	dir := t.group(path)
	b, err := os.ReadFile(filepath.Join(dir, usage))
	if err != nil {
		return Memory{}, fmt.Errorf("read memory use: %w", err)
	}

	var m Memory
	if m.Used, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err != nil {
		return Memory{}, fmt.Errorf("read memory use: %w", err)
	}

	counts, err := readCounts(filepath.Join(dir, events))
	if err != nil {
		return Memory{}, err
	}
	m.OOMKills = counts["oom_kill"]

	if stat, err := readCounts(filepath.Join(dir, "memory.stat")); err == nil {
		m.Used -= min(m.Used, stat[inactive])
	}
	return m, nil
}

// group is where the memory controller has the group at path.
func (t *Tree) group(path Path) string {
	if t.v2 {
		return filepath.Join(t.dirs[""], string(path))
	}
	return filepath.Join(t.dirs["memory"], string(path))
}

// readCounts reads a file of "name number" lines; other lines are passed over.
func readCounts(path string) (map[string]uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}

	counts := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			counts[name] = n
		}
	}
	return counts, nil
}

// Busy reports whether a process is in the group at path or below, in any tree.
func (t *Tree) Busy(path Path) (bool, error) {
	busy := false
	err := t.each(path, func(dir string) error {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		busy = busy || len(b) > 0
		return ignoreGone(err)
	})
	return busy, err
}

// BusyBelow names the groups right below the one at path that are busy.
func (t *Tree) BusyBelow(path Path) ([]string, error) {
	var names []string
	for _, mount := range t.dirs {
		entries, err := os.ReadDir(filepath.Join(mount, string(path)))
		if ignoreGone(err) != nil {
			return nil, fmt.Errorf("list control groups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(names, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)

	var busy []string
	for _, name := range names {
		is, err := t.Busy(Path(filepath.Join(string(path), name)))
		if err != nil {
			return nil, err
		}
		if is {
			busy = append(busy, name)
		}
	}
	return busy, nil
}

// Processes are those in the group at path itself. A group that is gone gives
// fs.ErrNotExist.
func (t *Tree) Processes(path Path) ([]int, error) {
	return processes(t.group(path))
}

// processes are those in the group of that folder.
func processes(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}

	var out []int
	for f := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
			out = append(out, pid)
		}
	}
	return out, nil
}

// Kill sends SIGKILL to every process in the group at path and below.
func (t *Tree) Kill(path Path) error {
	return t.each(path, func(dir string) error {
		pids, err := processes(dir)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
		return ignoreGone(err)
	})
}

// Remove removes the group at path and those below it from every tree. Groups
// that are not there are no error; one that still has processes is.
func (t *Tree) Remove(path Path) error {
	return t.each(path, func(dir string) error { return ignoreGone(syscall.Rmdir(dir)) })
}

// each calls f for the group at path in every tree, children first.
func (t *Tree) each(path Path, f func(dir string) error) error {
	if filepath.Clean("/"+string(path)) == "/" {
		return errors.New("refusing to touch the root control group")
	}

	var errs []error
	seen := map[string]bool{}
	for _, mount := range t.dirs {
		if seen[mount] {
			continue
		}
		seen[mount] = true

		var dirs []string
		err := filepath.WalkDir(filepath.Join(mount, string(path)), func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return ignoreGone(err)
			}
			if d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		errs = append(errs, err)

		slices.Reverse(dirs)
		for _, d := range dirs {
			if err := f(d); err != nil {
				errs = append(errs, fmt.Errorf("control group %s: %w", d, err))
			}
		}
	}
	return errors.Join(errs...)
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}

// Membership says in which groups one process is: controller -> path, with ""
// for the unified hierarchy.
type Membership map[string]Path

// ParseMembership reads the form of /proc/PID/cgroup (cgroups(7), "/proc files").
func ParseMembership(r io.Reader) (Membership, error) {
	m := Membership{}

	s := bufio.NewScanner(r)
	for s.Scan() {
		id, rest, ok := strings.Cut(s.Text(), ":")
		controllers, path, ok2 := strings.Cut(rest, ":")
		if _, err := strconv.ParseUint(id, 10, 32); err != nil || !ok || !ok2 || !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("control groups of a process: line %q: want ID:CONTROLLERS:/PATH", s.Text())
		}

		for c := range strings.SplitSeq(controllers, ",") {
			if _, twice := m[c]; twice {
				return nil, fmt.Errorf("control groups of a process: controller %q twice", c)
			}
			m[c] = Path(path)
		}
	}

	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("control groups of a process: %w", err)
	}
	return m, nil
}

// MembershipOf reads the membership of a running process.
func MembershipOf(pid int) (Membership, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, fmt.Errorf("control groups of a process: %w", err)
	}
	defer f.Close()
	return ParseMembership(f)
}

// In reports whether the process is in exactly the group at path: in the
// unified hierarchy under v2; in those controllers under v1 that the launch
// profile limits, of which memory has to be one.
func (t *Tree) In(m Membership, path Path) bool {
	path = Path(filepath.Clean("/" + string(path)))
	if t.v2 {
		return m[""] == path
	}

	for _, c := range []string{"memory", "pids", "devices"} {
		got, ok := m[c]
		if t.dirs[c] == "" && !ok {
			continue // not on this machine
		}
		if got != path {
			return false
		}
	}
	return m["memory"] == path
}
