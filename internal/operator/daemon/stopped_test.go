package daemon

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
)

// TestStoppedCupeld: who wants something of a cupeld that was stopped by a signal hears
// so at once, and the way out; nobody waits for it.
func TestStoppedCupeld(t *testing.T) {
	o := upOptions(t)
	if _, stderr, code := cupeld(t, ":", upFlags(o)...); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	e, err := client.ReadEndpoint(o.State)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, stderr, code := cupeld(t, ":", "cleanup", "--yes", "--state", o.State); code != 0 {
			t.Errorf("exit %d: %s", code, stderr)
		}
	})
	stopProcess(t, e.PID)

	mend := fmt.Sprintf("kill -CONT %d; or end it: kill -9 %d, then run this again", e.PID, e.PID)
	for _, args := range [][]string{upFlags(o), {"down", "--state", o.State}} {
		_, stderr, code := cupeld(t, ":", args...)
		if code != 7 || !strings.Contains(stderr, "cupeld_hangs: cupeld already runs on") || !strings.Contains(stderr, mend) {
			t.Errorf("%s: exit %d: %s", args[0], code, stderr)
		}
	}

	// Who deletes all of it ends it too, and everything with it.
	defer func() {
		if _, stderr, code := cupeld(t, ":", "cleanup", "--yes", "--state", o.State); code != 0 {
			t.Errorf("cleanup: exit %d: %s", code, stderr)
		}
		nothingLeft(t, o)
	}()

	// The same for who talks to its manager.
	client := client.NewManager(ident.Address(e.Address), client.ManagerOptions{CertSHA256: e.CertSHA256, PID: e.PID})
	defer client.Close()
	_, err = client.Info(t.Context())
	if err == nil || !strings.Contains(err.Error(), "it is stopped (SIGSTOP, or a debugger)") || !strings.Contains(err.Error(), fmt.Sprintf("kill -9 %d, then cupel up", e.PID)) {
		t.Errorf("its manager: %v", err)
	}
}

// TestDetachedGoesOn: a cupeld that takes longer to serve than somebody waits for it goes
// on, and whoever runs the same command again finds it.
func TestDetachedGoesOn(t *testing.T) {
	o := upOptions(t)
	t.Cleanup(func() {
		if _, stderr, code := cupeld(t, ":", "cleanup", "--yes", "--state", o.State); code != 0 {
			t.Errorf("exit %d: %s", code, stderr)
		}
	})
	flags := append([]string{"up", "--own"}, upFlags(o)[2:]...)
	itself := os.Args[0]
	os.Args[0] = "cupeld" // the name under which the program is started again
	defer func() { os.Args[0] = itself }()
	_, err := detach(t.Context(), o.State, flags, time.Millisecond, nil)
	if p := problem.From(err); err == nil || p.Rule != "not_ready" || !strings.Contains(p.Actual, "and goes on") || !strings.Contains(p.Mend, "run this again, which waits for it") {
		t.Fatalf("detached: %v", err)
	}
	_, err = detach(t.Context(), o.State, flags, time.Minute, nil)
	if held, ok := errors.AsType[*lockedError](err); !ok || held.problem().Rule != ruleRuns {
		t.Errorf("again: %v", err)
	}
}
