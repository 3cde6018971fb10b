package manager_test

import (
	"slices"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/internal/operator/manager"
)

// TestLauncherBelongsToTheRevision: an upgrade of the launcher changes nothing
// for what is deployed, also when it is started again; its owner is told before
// the next deployment, which runs on the new one.
func TestLauncherBelongsToTheRevision(t *testing.T) {
	bubble(t, func(t *testing.T) {
		before, after := ident.Digest{1}, ident.Digest{2}
		w := newWorld(t, nil)
		w.stop()
		w.launcher = before
		w.start()
		w.settled(w.deploy(request()).ID)
		if len(w.m.OldLaunchers()) != 0 {
			t.Error("before the upgrade an app is said to need its owner")
		}

		w.stop()
		w.launcher = after
		w.start()
		in := w.instances("app")[0]
		w.fake.Crash(ident.AttemptID(in.ID+"-1"), 1, false)
		time.Sleep(10 * time.Second)
		started := w.fake.Started()
		if s := started[len(started)-1]; string(s.ID) != in.ID+"-2" || s.Launcher != before {
			t.Errorf("restarted as %s by launcher %.6s, want the one before", s.ID, s.Launcher)
		}
		if got := w.m.Launchers(); !slices.Contains(got, before) {
			t.Errorf("named launchers %v", got)
		}
		if old := w.m.OldLaunchers(); len(old) != 1 {
			t.Errorf("%d apps are said to need their owner, want 1", len(old))
		}
		told := 0
		err := w.m.Events(t.Context(), operator, manager.EventQuery{}, manager.Sink[managerapi.Event]{Waits: unheard, Emit: func(e managerapi.Event) error {
			if e.Reason == "launcher_upgraded" {
				told++
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if told != 1 {
			t.Errorf("%d events tell of the upgrade, want 1", told)
		}

		w.settled(w.deploy(request()).ID)
		started = w.fake.Started()
		if s := started[len(started)-1]; s.Launcher != after {
			t.Errorf("deployed by launcher %.6s, want the new one", s.Launcher)
		}
		if old := w.m.OldLaunchers(); len(old) != 0 {
			t.Errorf("after the deployment %v need their owner", old)
		}
	})
}
