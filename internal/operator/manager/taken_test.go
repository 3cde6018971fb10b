package manager_test

import (
	"slices"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
)

// TestTakenPortIsForgottenWithItsApp: that another program has a port is of the app that
// had it. A later app there was never told so, and neither shows it nor is told that it
// is over.
func TestTakenPortIsForgottenWithItsApp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		w.stop()
		w.bal.take(a.Port, true)
		w.start()
		time.Sleep(time.Minute)
		if a = w.settled(a.ID); a.Problem == nil {
			t.Fatal("not shown")
		}
		if _, err := w.m.RemoveApp(t.Context(), alice, ident.AppRef(a.ID)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.bal.take(a.Port, false)
		before := len(w.reasons())
		req := request()
		req.Session = "alice/other"
		req.Port = a.Port
		b := w.deploy(req)
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			for _, x := range w.m.Apps(operator) {
				if x.ID == b.ID && x.Problem != nil && x.Problem.Rule == "port_taken" {
					t.Fatalf("the new app, whose port is free: %v", x.Problem)
				}
			}
		}
		if after := w.reasons()[before:]; slices.Contains(after, "port_served") {
			t.Errorf("told of the new app: %q", after)
		}
	})
}
