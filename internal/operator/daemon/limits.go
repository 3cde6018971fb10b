package daemon

import (
	"time"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/problem"
)

// maxDrain is the longest time for connections to end. One that must go on for
// longer is no reason to leave the old code running.
const maxDrain = 24 * time.Hour

// managerLimits are the manager's times and counts as the flags have them.
func managerLimits(o Options) (manager.Limits, error) {
	limits := manager.DefaultLimits()
	if o.Drain < 0 || o.Drain > maxDrain {
		return limits, problem.New(problem.Invalid, "drain", "connections may last %s to an instance that is replaced", o.Drain).
			Want("0s to %s", maxDrain).
			Fix("give another --drain, as in --drain 30s")
	}
	limits.Drain = o.Drain
	return limits, nil
}
