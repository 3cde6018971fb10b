package manager_test

import (
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
)

// TestTypo: a name that nobody has is refused where events are asked for, too, also to
// be followed; and the app that was meant is named, if it is the caller's.
func TestTypo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		typo := a.Name + "x"
		none := func(managerapi.Event) error { return nil }
		for _, follow := range []bool{false, true} {
			for _, since := range []uint64{0, 3} {
				err := w.m.Events(t.Context(), alice, manager.EventQuery{Since: since, App: ident.AppRef(typo), Follow: follow}, manager.Sink[managerapi.Event]{Waits: unheard, Emit: none})
				want := "did you mean " + a.Name + "? See 'cupel ps'"
				if p := problem.From(err); p == nil || p.Kind != problem.NotFound || p.Mend != want {
					t.Errorf("follow %v since %d: %v", follow, since, err)
				}
			}
		}
		if _, err := w.m.App(alice, ident.AppRef(typo)); problem.From(err).Mend != "did you mean "+a.Name+"? See 'cupel ps'" {
			t.Errorf("App: %v", err)
		}
		if _, err := w.m.App(mallory, ident.AppRef(typo)); problem.From(err).Mend != "see 'cupel ps'" {
			t.Errorf("another's app is named: %v", err)
		}

		// What is gone has its history.
		if _, err := w.m.RemoveApp(t.Context(), alice, ident.AppRef(a.Name)); err != nil {
			t.Fatal(err)
		}
		w.removed(a.ID)
		if err := w.m.Events(t.Context(), alice, manager.EventQuery{Since: 1 << 40, App: ident.AppRef(a.Name)}, manager.Sink[managerapi.Event]{Waits: unheard, Emit: none}); err != nil {
			t.Errorf("events of an app that was: %v", err)
		}
	})
}

// removed waits until an app is no more.
func (w *world) removed(id string) {
	w.t.Helper()
	for range 100 {
		if _, err := w.m.App(alice, ident.AppRef(id)); problem.KindOf(err) == problem.NotFound {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatal("the app stays")
}
