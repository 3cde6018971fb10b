package daemon

import (
	"context"
	"fmt"
	"sync"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Who waits for a cupeld to end sees by its lock's file whether it still works.
const (
	// renewEvery is how often a cupeld that stops its apps writes there what still runs.
	renewEvery = 10 * time.Second
	// quietLimit is how long it may write nothing: what it does between two words takes
	// less.
	quietLimit = 2 * time.Minute
)

// endTold is what keeps apps from their end, told to whoever waits for it.
type endTold struct {
	mu      sync.Mutex
	say     func(string) // nil: nobody waits
	warning string
	running string
}

// warn takes what an instance can't do; empty: it can again.
func (e *endTold) warn(line string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.warning = line
	e.renew()
}

// runs takes what has not ended yet.
func (e *endTold) runs(line string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = line
	e.renew()
}

// renew says it, also if it is the same again. Callers hold mu.
func (e *endTold) renew() {
	switch {
	case e.say == nil:
	case e.warning == "":
		e.say(e.running)
	case e.running == "":
		e.say(e.warning)
	default:
		e.say(e.warning + "; " + e.running)
	}
}

// tellEnd says every now and then what still runs, while apps are stopped: as long as
// one stops, for which the node has deadlines of its own, or something changed since.
// So whoever hangs, or waits for what hangs, says nothing.
func (p *parts) tellEnd(ctx context.Context, list func(context.Context) ([]manager.InstanceStatus, error)) (ended func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for last := ""; ; {
			instances, err := list(ctx)
			if ctx.Err() != nil {
				return
			}

			if line, stops := stillRuns(instances); err == nil && (stops || line != last) {
				p.ends.runs(line)
				last = line
			}

			select {
			case <-ctx.Done():
				return
			case <-time.After(renewEvery):
			}
		}
	}()

	return cancel
}

// stillRuns says which instances have not ended, and whether one of them is about to.
func stillRuns(list []manager.InstanceStatus) (line string, stops bool) {
	var left []string
	for _, s := range list {
		if s.State == manager.StateExited {
			continue
		}

		stops = stops || s.State == manager.StateStopping
		does := string(s.State)
		if s.Phase == string(wire.Committing) {
			does = "stores its volumes"
		}
		left = append(left, fmt.Sprintf("%s (%s)", s.ID, does))
	}

	if len(left) == 0 {
		return problem.Count(len(list), "instance") + " left to remove, none runs", false
	}
	return "not ended yet: " + short(left), stops
}

// quiet is the refusal of whoever waited for a cupeld that says nothing any more.
func (l layout) quiet(pid int, limit time.Duration) *problem.Error {
	return problem.New(problem.Unavailable, ruleDownTimeout, "cupeld (process %d) was told to stop, and has said nothing of it for %s: it hangs, or what it waits for does", pid, problem.Duration(limit)).
		Want("a word every %s while apps stop and store their volumes", problem.Duration(renewEvery)).
		Fix("it goes on, if it can: its log is under %s, and this command again waits longer. 'cupel down --force' ends it, and gives apps their grace and %s to store their volumes: what they haven't stored by then is lost",
			l.path("log"), problem.Duration(forcedCommit))
}
