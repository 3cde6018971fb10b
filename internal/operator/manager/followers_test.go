package manager_test

import (
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/internal/operator/manager"
)

// unheard is for those of whom nobody hears when they wait.
func unheard() error { return nil }

// followLogs follows an instance; what it ends with, if it does, goes to ended.
func (w *world) followLogs(caller ident.KeyHash, id string, ended chan<- error) {
	go func() {
		ended <- w.m.Logs(w.t.Context(), caller, manager.LogQuery{Instance: ident.InstanceRef(id), LogOptions: manager.LogOptions{Follow: true, Tail: -1}}, manager.Sink[managerapi.LogLine]{Waits: unheard, Emit: func(managerapi.LogLine) error { return nil }})
	}()
}

func (w *world) followEvents(caller ident.KeyHash, ended chan<- error) {
	go func() {
		ended <- w.m.Events(w.t.Context(), caller, manager.EventQuery{Follow: true}, manager.Sink[managerapi.Event]{Waits: unheard, Emit: func(managerapi.Event) error { return nil }})
	}()
}

// TestAnAppIsFollowedWhole: who follows the largest app that there may be follows all
// its instances, in the midst of an update too.
func TestAnAppIsFollowedWhole(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.stop()
		w.keys = manager.DefaultKeyLimits(64 << 30)
		w.start()
		req := request()
		req.Instances = 100
		w.settled(w.deploy(req).ID)
		ended := make(chan error, 300)
		followed := map[string]bool{}
		follow := func() {
			for _, in := range w.instances("app") {
				if !followed[in.ID] {
					followed[in.ID] = true
					w.followLogs(alice, in.ID, ended)
				}
			}
			time.Sleep(time.Second)
		}
		follow()
		for id := range followed {
			w.bal.hold(id, 1)
		}
		w.deploy(req)
		time.Sleep(10 * time.Second)
		follow()
		if len(ended) > 0 || len(followed) != 200 {
			t.Errorf("%d of %d streams ended: %v", len(ended), len(followed), <-ended)
		}
	})
}

// TestStrangersLeavePlacesToFollow: keys cost nothing. However many there are, the
// operator and the owners of apps follow what is theirs.
func TestStrangersLeavePlacesToFollow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.stop()
		w.keys = manager.DefaultKeyLimits(8 << 30)
		w.start()
		w.settled(w.deploy(request()).ID)
		refused := make(chan error, 1000)
		for k := range 50 {
			stranger := ident.KeyHash(ident.Sum([]byte{byte(k)}))
			for range 20 {
				w.followEvents(stranger, refused)
			}
		}
		time.Sleep(time.Second)
		if n := len(refused); n < 500 {
			t.Errorf("%d of 1000 streams of strangers were refused", n)
		}

		ended := make(chan error, 10)
		for _, key := range []ident.KeyHash{operator, alice} {
			w.followEvents(key, ended)
			for _, in := range w.instances("app") {
				w.followLogs(key, in.ID, ended)
			}
		}
		time.Sleep(time.Second)
		if len(ended) > 0 {
			t.Errorf("%d streams of the operator and an owner ended: %v", len(ended), <-ended)
		}
	})
}
