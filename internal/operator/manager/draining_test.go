package manager_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// hold gives an instance so many open connections.
func (b *balancer) hold(instance string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[instance] = n
}

func (b *balancer) connections(instance string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open[instance]
}

// watchStops reports every app instance that is told to end while the balancer
// leads to it, or while it has connections.
func (w *world) watchStops() {
	w.fake.Stopping = func(id ident.AttemptID) {
		place := id[:strings.LastIndex(string(id), "-")]
		for _, f := range w.bal.now() {
			if slices.ContainsFunc(f.Endpoints, func(e manager.Endpoint) bool { return e.Instance == string(place) }) {
				w.t.Errorf("%s is stopped while the balancer leads to it", id)
			}
		}
		if n := w.bal.connections(string(place)); n > 0 {
			w.t.Errorf("%s is stopped with %d connections open", id, n)
		}
	}
}

// gone waits until no instance of that id is listed, for a minute.
func (w *world) gone(id string) bool {
	for range 600 {
		if !slices.ContainsFunc(w.instances("app"), func(in managerapi.Instance) bool { return in.ID == id }) {
			return true
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

func TestUpdateLetsConnectionsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(request()).ID)
		busy := w.instances("app")[1].ID
		w.bal.hold(busy, 2)
		w.watchStops()
		a := w.deploy(request())
		time.Sleep(20 * time.Second)
		now, err := w.m.App(alice, ident.AppRef(a.ID))
		if err != nil || now.Revision != 2 || now.Healthy != 3 {
			t.Errorf("the new revision waits for the old one's connections: %+v, %v", now, err)
		}
		if got := w.instances("app"); len(got) != 4 || !slices.ContainsFunc(got, func(in managerapi.Instance) bool { return in.ID == busy && in.State == "running" }) {
			t.Errorf("while one of three old instances has connections: %+v", got)
		}
		w.bal.hold(busy, 0)
		if w.settled(a.ID); !w.gone(busy) {
			t.Error("it goes on after its last connection ended")
		}
		if slices.Contains(w.reasons(), "connections_cut") {
			t.Error("an event says that connections were cut")
		}
	})
}

// A client that stays for long costs little meanwhile, and is missed soon.
func TestLongDrainIsLookedAtRarely(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := drainWorld(t, time.Hour, 0)
		w.settled(w.deploy(request()).ID)
		old := w.instances("app")
		for i, in := range old {
			w.bal.hold(in.ID, i+1)
		}
		w.deploy(request())
		time.Sleep(5 * time.Minute)
		passes, _, _, calls := w.m.Work()
		time.Sleep(10 * time.Minute)
		passesLater, _, _, callsLater := w.m.Work()
		if n := callsLater - calls; n > 60 {
			t.Errorf("all connections were counted %d times in ten minutes", n)
		}
		if n := passesLater - passes; n > 200 {
			t.Errorf("everything was planned %d times in ten minutes", n)
		}
		for _, in := range old {
			w.bal.hold(in.ID, 0)
			if !w.gone(in.ID) {
				t.Errorf("%s goes on after its last connection ended", in.ID)
			}
		}
	})
}

// A client that never ends doesn't hold up an update for ever, and that is told. Nor
// does a balancer that can't count.
func TestDrainEnds(t *testing.T) {
	for name, blind := range map[string]error{"connections that stay": nil, "nobody can count": errors.New("no such file or directory")} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.settled(w.deploy(request()).ID)
				old := w.instances("app")[0].ID
				w.bal.hold(old, 1)
				w.bal.blind = blind
				w.settled(w.deploy(request()).ID)
				if !w.gone(old) {
					t.Fatal("the old instance is still there")
				}
				told := strings.Contains(w.messages(), "1 connection was still open 30 seconds after nobody was led to it any more")
				if told != (blind == nil) {
					t.Errorf("told: %v; events: %s", told, w.messages())
				}
			})
		})
	}
}

// Whatever else stops an instance that serves lets its connections end too.
func TestRemovalAndRenewalLetConnectionsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Life: 24 * time.Hour}
		})
		w.settled(w.deploy(request()).ID)
		w.watchStops()
		removed := w.instances("app")[0].ID
		w.bal.hold(removed, 1)
		if _, err := w.m.RemoveInstance(t.Context(), alice, ident.InstanceRef(removed)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		w.bal.hold(removed, 0)
		if !w.gone(removed) {
			t.Error("the removed instance is still there")
		}

		renewed := w.instances("app")
		for _, in := range renewed {
			w.bal.hold(in.ID, 1)
		}
		for range 24 * 120 { // each has a request under way that ends within half a minute
			time.Sleep(30 * time.Second)
			for _, f := range w.bal.now() {
				for _, l := range f.Leaving {
					w.bal.hold(l.Instance, 0)
				}
			}
		}
		if n := len(w.fake.Started()); n < 6 {
			t.Errorf("%d starts, want 4 and two more for certificates", n)
		}
	})
}

// Where the balancer can't be programmed, an instance that shall go goes all the same.
func TestRemovalWithoutBalancer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(request()).ID)
		w.bal.fail(problem.New(problem.Unavailable, "nftables", "operation not permitted"))
		id := w.instances("app")[0].ID
		if _, err := w.m.RemoveInstance(t.Context(), alice, ident.InstanceRef(id)); err != nil {
			t.Fatal(err)
		}
		if !w.gone(id) {
			t.Error("the removed instance is still there")
		}
	})
}

// An app that is removed goes at once.
func TestRemovedAppIsNotWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		for _, in := range w.instances("app") {
			w.bal.hold(in.ID, 1)
		}
		if _, err := w.m.RemoveApp(t.Context(), alice, ident.AppRef(a.ID)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if left := w.instances("app"); len(left) > 0 {
			t.Errorf("still there: %+v", left)
		}
	})
}
