package daemon

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/logfile"
	"cupel.dev/cupel/internal/procfs"
	"cupel.dev/cupel/internal/wording"
)

// process is one of our helpers.
type process struct {
	pid       int
	name      string // of its executable
	writesLog bool   // an instance's, as a cupeld did in earlier releases and does without cupel-log
}

// helpers are the programs that may be left running with our folder among
// their arguments.
var helpers = []string{"containerd", "containerd-shim-runc-v2", "cupel-cas", "cupel-log", "cupeld", "runc"}

// processes finds what still runs for this folder: as root, or a CAS as its own user.
func (l layout) processes() []process {
	var cas []int
	if info, err := os.Lstat(l.path("cas")); err == nil {
		cas = append(cas, int(info.Sys().(*syscall.Stat_t).Uid))
	}

	list, err := procfs.Commands(cas...)
	if err != nil {
		return nil
	}

	var out []process
	for _, c := range list {
		name := c.Name
		if c.User != os.Geteuid() { // whatever its binary is called
			name = filepath.Base(c.Args[0])
		}

		entitled := c.User == os.Geteuid() || name == "cupel-cas"
		if c.PID == os.Getpid() || c.PID == os.Getppid() || !entitled || !slices.Contains(helpers, name) {
			continue
		}

		if slices.ContainsFunc(c.Args[1:], l.mentions) {
			out = append(out, process{c.PID, name, slices.Contains(c.Args[1:], logfile.Verb)})
		}
	}
	return out
}

// lasting are those of them that go on without a cupeld, or with another one: none that
// has the folder's lock, or waits for it.
func (l layout) lasting() []process {
	return slices.DeleteFunc(l.processes(), func(p process) bool { return p.name == "cupeld" && !p.writesLog })
}

// holds tells whether a process is a cupeld that has our folder's lock, by whatever path
// it was given the folder.
func (l layout) holds(pid int) bool {
	c, ok := procfs.CommandOf(pid)
	if !ok || c.Name != "cupeld" {
		return false
	}

	lock, err := os.Stat(l.lockFile())
	if err != nil {
		return false
	}

	return hasOpen(pid, lock) && c.Alive()
}

// openFiles are the files that a process has open, each by its name below /proc.
func openFiles(pid int) iter.Seq2[string, os.FileInfo] {
	return func(yield func(string, os.FileInfo) bool) {
		open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is valid
		for _, path := range open {
			if info, err := os.Stat(path); err == nil && !yield(path, info) {
				return
			}
		}
	}
}

// hasOpen tells whether a process has a file open.
func hasOpen(pid int, file os.FileInfo) bool {
	for _, info := range openFiles(pid) {
		if os.SameFile(info, file) {
			return true
		}
	}
	return false
}

// mentions says whether an argument names something in our folder, or our
// namespace.
func (l layout) mentions(arg string) bool {
	if arg == l.namespace() {
		return true
	}
	_, rest, ok := strings.Cut(arg, l.dir)
	return ok && (rest == "" || rest[0] == '/') || strings.Contains(arg, "/run/cupel-"+l.id+"/")
}

// endProcesses ends our helpers, by SIGTERM, then SIGKILL.
func (l layout) endProcesses(ctx context.Context) error {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for range 60 {
			left := l.lasting()
			if len(left) == 0 {
				return nil
			}

			for _, p := range left {
				_ = syscall.Kill(p.pid, signal)
			}

			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return refuseLasting(l.lasting())
}

// refuseLasting says which of our helpers a SIGKILL didn't end: the kernel has them wait.
func refuseLasting(left []process) error {
	if len(left) == 0 {
		return nil
	}

	pids := make([]string, len(left))
	for i, p := range left {
		pids[i] = strconv.Itoa(p.pid)
	}

	return problem.New(problem.Internal, problem.RuleCleanup, "not ended by SIGKILL: %s", short(inWords(left))).
		Fix("look what they wait for, as for a disk that doesn't answer (dmesg; ps -o pid,state,wchan -p %s), then run this again", strings.Join(pids, ","))
}

// unmountAll unmounts what we have mounted below the folder, the innermost first.
func (l layout) unmountAll() error {
	for range 10 {
		points, _, err := l.mounts()
		if err != nil {
			return err
		}
		if len(points) == 0 {
			return nil
		}

		slices.SortFunc(points, func(a, b string) int { return len(b) - len(a) })
		for _, p := range points {
			_ = unix.Unmount(p, unix.MNT_DETACH)
		}
	}
	return problem.New(problem.Internal, problem.RuleCleanup, "something stays mounted below %s", l.dir).
		Fix("look who mounts there (findmnt -R %s), end that, then run this again", wording.ShellWord(l.dir))
}
