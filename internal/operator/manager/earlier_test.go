package manager_test

import (
	"context"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
)

// stubborn is a Backend that can end no instance.
type stubborn struct{ manager.Backend }

func (stubborn) Stop(context.Context, ident.AttemptID, time.Duration) error {
	return problem.New(problem.Unavailable, "containerd_hangs", "no answer")
}

func (stubborn) Remove(context.Context, ident.AttemptID) error {
	return problem.New(problem.Unavailable, "containerd_hangs", "no answer")
}

// suspendInVain is a down that notes that everything ends, and then can end nothing.
func (w *world) suspendInVain() {
	w.t.Helper()
	w.stop()
	db, err := managerdb.Open(w.t.Context(), w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	m, err := manager.New(w.t.Context(), manager.Config{Store: db, Backend: stubborn{w.fake}, Balancer: w.bal, Catalog: catalog{}, Now: time.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := m.Suspend(w.t.Context()); err == nil {
		w.t.Fatal("a down that ends nothing succeeds")
	}
}

// running is how many instances run, old attempts included.
func (w *world) running() (n int) {
	list, err := w.fake.List(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range list {
		if s.State == manager.StateRunning {
			n++
		}
	}
	return n
}

// TestEarlierAttemptsEnd: what a down left running makes room for its next attempt,
// and its log stays.
func TestEarlierAttemptsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(request()).ID)
		w.suspendInVain()
		most := 0
		w.start()
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			most = max(most, w.running())
		}
		if n := w.running(); n != 3 || most != 3 {
			t.Errorf("%d instances run, and %d did at the most; want 3", n, most)
		}
		for _, in := range w.instances("app") {
			lines := 0
			err := w.m.Logs(t.Context(), alice, manager.LogQuery{Instance: ident.InstanceRef(in.ID), LogOptions: manager.LogOptions{Tail: -1}, Previous: true}, manager.Sink[managerapi.LogLine]{Waits: unheard, Emit: func(managerapi.LogLine) error { lines++; return nil }})
			if err != nil || lines == 0 || in.Health != "healthy" {
				t.Errorf("%+v, with %d lines of the run before, %v", in, lines, err)
			}
		}
	})
}

// TestStuckAttemptsKeepNobodyFromServing: where the attempt before can't be ended, the
// next one serves beside it.
func TestStuckAttemptsKeepNobodyFromServing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		w.suspendInVain()
		w.backend = stubborn{w.fake}
		w.start()
		time.Sleep(time.Minute)
		if a, err := w.m.App(alice, ident.AppRef(a.ID)); err != nil || a.State != managerapi.AppReady {
			t.Errorf("%+v, %v", a, err)
		}
		w.stop()
		w.backend = nil
		w.start()
		time.Sleep(time.Minute)
		if n := w.running(); n != 3 {
			t.Errorf("%d instances run once they can be ended, want 3", n)
		}
	})
}
