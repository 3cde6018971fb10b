package manager_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// startCounter is a Backend that notes how many instances started at once at most.
type startCounter struct {
	manager.Backend
	mu   sync.Mutex
	most int
}

func (b *startCounter) Start(ctx context.Context, spec manager.InstanceSpec) error {
	err := b.Backend.Start(ctx, spec)
	list, _ := b.List(ctx)
	n := 0
	for _, s := range list {
		if s.State == manager.StateStarting {
			n++
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.most = max(b.most, n)
	return err
}

func atOnce(n int) *manager.Limits {
	l := manager.DefaultLimits()
	l.Starts = n
	return &l
}

func TestStartsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Delay: time.Second}
		})
		w.stop()
		b := &startCounter{Backend: w.fake}
		w.backend, w.limits = b, atOnce(2)
		w.start()
		req := request()
		req.Instances = 10
		a := w.deploy(req)
		time.Sleep(1500 * time.Millisecond) // the pull has ended, and some start
		waiting := 0
		for _, in := range w.instances("app") {
			if in.State != "waiting" {
				continue
			}
			waiting++
			if in.Problem == nil || in.Problem.Rule != "starts" || !strings.Contains(in.Problem.Actual, "it waits for its turn: others start, 2 at once") || !strings.Contains(in.Problem.Mend, "cupel up --starts") {
				t.Errorf("%s waits: %v", in.ID, in.Problem)
			}
		}
		if waiting == 0 {
			t.Error("nobody waits")
		}
		if a := w.settled(a.ID); a.Healthy != 10 {
			t.Errorf("%+v", a)
		}
		if b.most != 2 {
			t.Errorf("%d instances started at once, want 2", b.most)
		}
	})
}

// TestAHangingStartTakesNobodysTurn: instances that never come up, or wait for
// something, don't keep others from starting.
func TestAHangingStartTakesNobodysTurn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Hang: s.Port != 0 && s.AppName == "alice-shop"}
		})
		w.stop()
		w.limits = atOnce(1)
		w.start()
		w.deploy(request())
		time.Sleep(time.Second)
		req := request()
		req.Session, req.Port = "alice/other", 9090
		if a := w.settled(w.deploy(req).ID); a.State != managerapi.AppReady {
			t.Errorf("beside an app that hangs: %+v", a)
		}
	})
}
