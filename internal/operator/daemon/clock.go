package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cupel.dev/cupel/api/problem"
)

// lastSeen is the newest time that this machine's clock has surely had: when something
// of the installation was written, or its program was installed.
func (l layout) lastSeen() time.Time {
	files := []string{l.lockFile(), l.path("manager.db"), l.path("manager.db-wal"), l.path(portsFile)}
	for _, pattern := range []string{l.path("cas", "*"), l.path("log", "*")} {
		found, _ := filepath.Glob(pattern) // the pattern is valid
		files = append(files, found...)
	}

	if self, err := os.Executable(); err == nil {
		files = append(files, self)
	}

	var last time.Time
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

// waitClock waits until the clock is not before what was seen already. A machine without
// a battery for it begins in the past, until it has asked the network.
func waitClock(ctx context.Context, seen time.Time, patience time.Duration, tell func(string)) error {
	deadline := time.After(patience)
	for told := false; time.Now().Before(seen.Add(-time.Second)); {
		if !told {
			told = true
			tell(fmt.Sprintf("waiting for the clock: it says %s, and something here was written at %s", stamp(time.Now()), stamp(seen)))
		}

		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return problem.New(problem.Unavailable, ruleClockNotSet, "the clock says %s, and something here was written at %s", stamp(time.Now()), stamp(seen)).
				Fix("set it (timedatectl, chrony), then run this again")
		case <-time.After(time.Second):
		}
	}
	return nil
}

// stamp writes a time as people compare it with a clock.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
