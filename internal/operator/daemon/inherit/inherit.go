// Package inherit gives a process attributes of its own in place of those that it
// inherited: umask, limits, priorities, signals, privileges, environment, open
// files and the rest of proc(5), one by one.
//
// Many of them belong to a thread, and a Go program has several from its first
// moment. So they are set on one, and that one executes the program again: the
// new process, and all that it starts, has nothing of its caller's left. What the
// kernel doesn't let it set is refused by name.
//
// It trusts the kernel alone and keeps no state. It is for one call at the start
// of a program, before other goroutines do anything.
//
// Read inherit.go first, with the table of attributes in their order; thread.go sets
// them one by one, and limits.go the resource limits.
package inherit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
)

// attribute is one thing that a process inherits.
type attribute struct {
	name string       // as a person knows it
	own  func() error // gives it our value; the error says what the kernel says
	fix  string       // what the caller can do where that fails
}

// attributes are set in this order: what takes a privilege before anything that
// could take it away.
var attributes = []attribute{
	{"capabilities", ownCapabilities, "run it as a root that has them, outside of a restricted container; in a unit, leave out CapabilityBoundingSet="},
	{"secure bits", ownSecureBits, "start it without them (capsh --secbits=0); in a unit, leave out SecureBits="},
	{"user and groups", ownUser, "run it as root: sudo cupel up"},
	{"filter of system calls", noFilter, "start it outside of what filters them (a container's seccomp profile); in a unit, leave out SystemCallFilter= and what implies it"},
	{"rule that no memory may become executable", mayExecute, "in a unit, leave out MemoryDenyWriteExecute="},
	{"mount namespace", machineMounts, "start it outside of that: nsenter --mount=/proc/1/ns/mnt cupel up (in place of 'ip netns exec': nsenter --net=); " +
		"in a unit, leave out PrivateTmp=, ProtectSystem=, ProtectHome= and the like"},
	{"scheduling policy and priority (nice)", ownSchedule, "start it without nice and chrt; in a unit, leave out Nice= and CPUSchedulingPolicy="},
	{"processors", ownProcessors, "start it without taskset; in a unit, leave out CPUAffinity="},
	{"priority of input and output", ownIOPriority, "start it without ionice; in a unit, leave out IOSchedulingClass="},
	{"memory policy", ownMemoryPolicy, "start it without numactl; in a unit, leave out NUMAPolicy="},
	{"score for when memory runs out (oom_score_adj)", ownOOMScore, "echo 0 > /proc/self/oom_score_adj in the shell that starts it; in a unit, OOMScoreAdjust=0"},
	{"limits", ownLimits, "raise them in the shell that starts it (ulimit), or for its unit (LimitNOFILE= and its like)"},
	{"execution domain", ownPersonality, "start it without setarch; in a unit, leave out Personality="},
	{"use of memory", ownMemory, "in a unit, leave out MemoryKSM="},
	{"timers", ownTimers, "start it from a plain shell"},
	{"session keyring", ownKeyring, "make room for keys: sysctl kernel.keys.root_maxkeys"},
	{"signals", ownSignals, "start it from a plain shell"},
	{"file mode mask and folder", ownFiles, "start it from a plain shell"},
}

// own sets each attribute in turn, on the calling thread, which has to be locked.
// The first that can't be set is the error.
func own() error {
	for _, a := range attributes {
		if err := a.own(); err != nil {
			if p, ok := errors.AsType[*problem.Error](err); ok {
				return p
			}
			return problem.New(problem.Denied, problem.RuleInherited, "cupeld can't change the %s that it inherited: %w", a.name, err).
				Want("nothing of whoever starts it").Fix("%s", a.fix)
		}
	}
	return nil
}

// Exec gives this process attributes of its own and executes program, with these
// arguments, what [Environment] keeps of the environment, and the descriptors to
// keep. It returns only with an error, and then the process had better end.
func Exec(program string, args, environ []string, keep ...int) error {
	runtime.LockOSThread() // for good: this thread is like no other from now on
	if err := own(); err != nil {
		return err
	}

	if err := closeOthers(keep); err != nil {
		return fmt.Errorf("close what was inherited: %w", err)
	}

	err := unix.Exec(program, args, Environment(environ))
	return problem.New(problem.Internal, problem.RuleInherited, "execute %s again: %w", program, err).Fix("let root execute it")
}

// Environment returns what of an environment is for a daemon: the folders of
// programs, Cupel's own variables, and a service manager's socket. Variables that change
// what programs do (LD_PRELOAD, GODEBUG, TMPDIR, a proxy, a language) stay behind.
func Environment(environ []string) []string {
	out := []string{"LANG=C.UTF-8"}
	path := ""
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		switch {
		case name == "PATH":
			path = value
		case strings.HasPrefix(name, "CUPEL_"), name == "NOTIFY_SOCKET":
			out = append(out, v)
		}
	}
	return append(out, "PATH="+searchPath(path))
}

// systemPath is where Debian has its programs.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// searchPath keeps the absolute folders of a caller's PATH, in its order, and adds
// those of the system that a user's PATH lacks.
func searchPath(given string) string {
	var dirs []string
	for _, d := range filepath.SplitList(given + ":" + systemPath) {
		if filepath.IsAbs(d) && !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	return strings.Join(dirs, ":")
}

// closeOthers has every descriptor but the standard ones, and those to keep,
// closed when the next program starts: a lock that a caller holds by one would
// otherwise be held for as long as the daemons live.
func closeOthers(keep []int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}

	for _, e := range entries {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil || fd <= 2 {
			continue
		}

		flags := unix.FD_CLOEXEC
		if slices.Contains(keep, fd) {
			flags = 0
		}

		// EBADF: it was the one by which the folder is read.
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags); err != nil && !errors.Is(err, unix.EBADF) {
			return err
		}
	}
	return nil
}
