package manager_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// TestMachinesFailuresDontCount: however often instances go down with their machine, the
// pause before the next attempt stays the shortest. What the app did counts as ever.
func TestMachinesFailuresDontCount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		id := w.instances("app")[0].ID
		for attempt := range 6 {
			w.fake.Lose(ident.AttemptID(fmt.Sprintf("%s-%d", id, attempt+1)))
			time.Sleep(2 * manager.DefaultLimits().BackoffMin)
			if a, _ = w.m.App(alice, ident.AppRef(a.ID)); a.State != managerapi.AppReady {
				t.Fatalf("after the machine's end number %d: %+v", attempt+1, a)
			}
		}
		if got := w.instances("app")[0].Restarts; got != 6 {
			t.Errorf("%d restarts are shown", got)
		}
		if said := w.messages(); strings.Count(said, "went down with its machine or its containers; starting it again in 1 second") != 6 {
			t.Errorf("events:\n%s", said)
		}

		for attempt := 7; attempt < 9; attempt++ {
			w.fake.Crash(ident.AttemptID(fmt.Sprintf("%s-%d", id, attempt)), 1, false)
			time.Sleep(3 * time.Second)
		}
		if said := w.messages(); !strings.Contains(said, "starting it again in 2 seconds") {
			t.Errorf("events of the app's own ends:\n%s", said)
		}
	})
}

// TestRefusedGrantIsTriedAtAStart: what the CAS refused for the owner's sake waits for an
// hour; a start of the manager, as after a CAS was put back, tries it at once, and once.
func TestRefusedGrantIsTriedAtAStart(t *testing.T) {
	for _, rule := range []string{"grant_other", "grant_missing", "grant_ended"} {
		t.Run(rule, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var refused atomic.Bool
				w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
					if s.Port != 0 && refused.Load() {
						return backendtest.Script{Exit: true, Code: 125, Problem: problem.New(problem.Denied, problem.Rule(rule), "the CAS says no")}
					}
					return backendtest.Script{Exit: s.Port == 0}
				})
				a := w.settled(w.deploy(request()).ID)
				id := w.instances("app")[0].ID
				refused.Store(true)
				w.fake.Crash(ident.AttemptID(id+"-1"), 1, false)
				time.Sleep(time.Minute)
				if a, _ = w.m.App(alice, ident.AppRef(a.ID)); a.State == managerapi.AppReady {
					t.Fatalf("refused: %+v", a)
				}
				starts := len(w.fake.Started())

				w.stop()
				w.start()
				time.Sleep(time.Minute)
				if got := len(w.fake.Started()) - starts; got != 1 {
					t.Errorf("%d attempts after a start", got)
				}

				refused.Store(false)
				w.stop()
				w.start()
				time.Sleep(time.Second)
				if a, _ = w.m.App(alice, ident.AppRef(a.ID)); a.State != managerapi.AppReady {
					t.Errorf("after the CAS was put back: %+v", a)
				}
			})
		})
	}
}
