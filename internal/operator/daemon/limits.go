package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// maxDrain is the longest time for connections to end. One that must go on for
// longer is no reason to leave the old code running.
const maxDrain = 24 * time.Hour

// maxGrace is the longest time for an app to end: cupel down waits for all of them.
const maxGrace = 10 * time.Minute

// managerLimits are the manager's times and counts as the flags have them.
func managerLimits(o Options) (manager.Limits, error) {
	limits := manager.DefaultLimits()
	if o.Drain < 0 || o.Drain > maxDrain {
		return limits, problem.New(problem.Invalid, ruleDrain, "connections may last %s to an instance that is replaced", problem.Duration(o.Drain)).
			Want("0s to %s", problem.Duration(maxDrain)).
			Fix("give another --drain, as in --drain 30s")
	}
	limits.Drain = o.Drain

	if o.Starts < 0 {
		return limits, problem.New(problem.Invalid, problem.RuleStarts, "%d instances may start at once", o.Starts).
			Want("1 or more, or 0 for what this machine's cores allow").
			Fix("give another --starts, or leave it out")
	}
	limits.Starts = o.Starts
	if limits.Starts == 0 {
		limits.Starts = startsPerCore * runtime.NumCPU()
	}

	if o.Grace < 0 || o.Grace > maxGrace {
		return limits, problem.New(problem.Invalid, ruleGrace, "apps have %s from SIGTERM to SIGKILL", problem.Duration(o.Grace)).
			Want("1s to %s", problem.Duration(maxGrace)).
			Fix("give another --grace, as in --grace 30s")
	}
	if o.Grace > 0 {
		limits.Grace = o.Grace
	}
	return limits, nil
}

// keepGrace writes down how long apps have to end, for who stops them after this cupeld
// died.
func (l layout) keepGrace(grace time.Duration) error {
	return writeOnce(l.path("grace"), []byte(grace.String()+"\n"), 0o644)
}

// keptLimits are those by which the apps of a cupeld that died are stopped. Where a
// damaged file doesn't say how long they have, they have the longest time: one that is
// killed too early loses what it wrote.
func (l layout) keptLimits() manager.Limits {
	limits := manager.DefaultLimits()
	b, err := atomicfile.Read(l.path("grace"))
	if errors.Is(err, fs.ErrNotExist) { // an earlier release kept none
		return limits
	}

	limits.Grace = maxGrace
	if grace, ok := parseGrace(b); ok {
		limits.Grace = grace
	}
	return limits
}

// parseGrace reads what keepGrace wrote.
func parseGrace(b []byte) (grace time.Duration, ok bool) {
	grace, err := time.ParseDuration(strings.TrimSpace(string(b)))
	return grace, err == nil && grace > 0 && grace <= maxGrace
}

// startsPerCore is how many instances start at once for each core. A start waits for
// the runtime, the CAS and the app as much as it computes; more of them at once only
// let each come up later.
const startsPerCore = 4

// memoryOf is the machine's memory.
func memoryOf() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("look at the machine's memory: %w", err)
	}
	return info.Totalram * uint64(info.Unit), nil
}

// machineMemory is what all instances may have together.
func machineMemory(o Options) (manager.MachineMemory, error) {
	total, err := memoryOf()
	if err != nil {
		return manager.MachineMemory{}, err
	}

	switch o.Overcommit {
	case "", "warn":
		return manager.MachineMemory{Total: total}, nil
	case "refuse":
		return manager.MachineMemory{Total: total, Refuse: true}, nil
	}

	return manager.MachineMemory{}, problem.New(problem.Invalid, ruleOvercommit, "--overcommit %.40q", o.Overcommit).Want("warn or refuse").Fix("give one of them, or leave --overcommit out")
}
