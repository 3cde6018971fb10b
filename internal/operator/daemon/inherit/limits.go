package inherit

import (
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
)

// limit is one resource limit of a process: what we want of it, and the least with
// which everything works where the caller's is lower and can't be raised.
type limit struct {
	name, unit string // as ulimit and as systemd call it
	resource   int
	want       unix.Rlimit
	least      uint64
}

const noLimit = unix.RLIM_INFINITY

// both is a limit that is soft and hard.
func both(n uint64) unix.Rlimit { return unix.Rlimit{Cur: n, Max: n} }

// limits are the daemons'. Instances have their own, of the launch profile and of
// the launcher, which can't be above these.
var limits = []limit{
	{"ulimit -v (address space)", "LimitAS=infinity", unix.RLIMIT_AS, both(noLimit), noLimit},
	// One byte: the launch profile's, under which the kernel dumps nothing anywhere.
	{"ulimit -c (core files)", "LimitCORE=1", unix.RLIMIT_CORE, both(1), 1},
	{"ulimit -t (processor time)", "LimitCPU=infinity", unix.RLIMIT_CPU, both(noLimit), noLimit},
	{"ulimit -d (data)", "LimitDATA=infinity", unix.RLIMIT_DATA, both(noLimit), noLimit},
	{"ulimit -f (file size)", "LimitFSIZE=infinity", unix.RLIMIT_FSIZE, both(noLimit), noLimit},
	{"ulimit -x (locks)", "LimitLOCKS=infinity", unix.RLIMIT_LOCKS, both(noLimit), 0},
	{"ulimit -l (locked memory)", "LimitMEMLOCK=64M", unix.RLIMIT_MEMLOCK, both(64 << 20), 0},
	{"ulimit -q (message queues)", "LimitMSGQUEUE=819200", unix.RLIMIT_MSGQUEUE, both(819200), 0},
	{"ulimit -e (nice)", "LimitNICE=0", unix.RLIMIT_NICE, both(0), 0},
	{"ulimit -n (open files)", "LimitNOFILE=65536", unix.RLIMIT_NOFILE, both(1 << 20), leastFiles},
	{"ulimit -u (processes)", "LimitNPROC=infinity", unix.RLIMIT_NPROC, both(noLimit), 4096},
	{"ulimit -m (memory)", "LimitRSS=infinity", unix.RLIMIT_RSS, both(noLimit), 0},
	{"ulimit -r (real-time priority)", "LimitRTPRIO=0", unix.RLIMIT_RTPRIO, both(0), 0},
	{"ulimit -R (real-time)", "LimitRTTIME=infinity", unix.RLIMIT_RTTIME, both(noLimit), 0},
	{"ulimit -i (pending signals)", "LimitSIGPENDING=16384", unix.RLIMIT_SIGPENDING, both(16384), 0},
	{"ulimit -s (stack)", "LimitSTACK=8M:infinity", unix.RLIMIT_STACK, unix.Rlimit{Cur: 8 << 20, Max: noLimit}, 8 << 20},
}

// leastFiles is how many files cupeld may at least have open: a connection, a log
// and a socket for each of a few hundred instances.
const leastFiles = 4096

// ownLimits sets all of them.
func ownLimits() error {
	for _, l := range limits {
		if err := l.own(); err != nil {
			return err
		}
	}
	return nil
}

// own sets the limit to what we want, or to the most that may be had.
func (l limit) own() error {
	err := set(l.resource, l.want)
	if err == nil {
		return nil
	}

	var was syscall.Rlimit
	if gerr := syscall.Getrlimit(l.resource, &was); gerr != nil {
		return fmt.Errorf("%s: %w", l.name, gerr)
	}
	if was.Max < l.least {
		return problem.New(problem.Denied, l.rule(), "cupeld may have no more than %s for %s, and can't raise it: %w", l.amount(was.Max), l.name, err).
			Want("%s", l.enough()).
			Fix("raise it in the shell that starts it: %s; in a unit: %s", l.command(), l.unit)
	}

	hard := min(was.Max, l.want.Max)
	if err := set(l.resource, unix.Rlimit{Cur: min(hard, l.want.Cur), Max: hard}); err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	return nil
}

// set goes by the standard library, which otherwise gives the program that is executed
// next the limit of open files that this one began with.
func set(resource int, to unix.Rlimit) error {
	return syscall.Setrlimit(resource, &syscall.Rlimit{Cur: to.Cur, Max: to.Max})
}

// rule is the rule of a limit that is too low.
func (l limit) rule() problem.Rule {
	if l.resource == unix.RLIMIT_NOFILE {
		return problem.RuleOpenFiles
	}
	return problem.RuleInherited
}

// command is what raises it in a shell.
func (l limit) command() string {
	return l.name[:len("ulimit -n")] + " " + l.amount(l.least)
}

// enough is what would do.
func (l limit) enough() string {
	if l.least == noLimit {
		return l.amount(l.least)
	}
	return l.amount(l.least) + " or more"
}

// inKilobytes are the limits that a shell counts in units of 1024 bytes, and the kernel
// in bytes.
var inKilobytes = []int{
	unix.RLIMIT_AS, unix.RLIMIT_CORE, unix.RLIMIT_DATA, unix.RLIMIT_FSIZE, unix.RLIMIT_MEMLOCK, unix.RLIMIT_RSS, unix.RLIMIT_STACK,
}

// amount is a value as ulimit takes and shows it, where a part of a unit is a whole one.
func (l limit) amount(n uint64) string {
	if n == noLimit {
		return "unlimited"
	}
	if slices.Contains(inKilobytes, l.resource) {
		n = (n + 1023) / 1024
	}
	return fmt.Sprint(n)
}
