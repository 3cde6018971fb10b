package manager_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// TestClockSetBack: a pause lasts no longer than its back-off, whatever the clock on
// the wall is set to meanwhile, and whether the manager was there or not.
func TestClockSetBack(t *testing.T) {
	for name, away := range map[string]bool{"while it runs": false, "while it is away": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, nil)
				a := w.settled(w.deploy(request()).ID)
				id := w.instances("app")[0].ID
				w.fake.Crash(ident.AttemptID(id+"-1"), 1, false)
				time.Sleep(10 * time.Millisecond) // its end is judged, and it waits for a second
				if away {
					w.stop()
				}
				w.back.Store(int64(24 * time.Hour))
				if away {
					w.start()
				}
				time.Sleep(time.Minute)
				if a, _ = w.m.App(alice, ident.AppRef(a.ID)); a.State != managerapi.AppReady {
					t.Errorf("a minute later: %+v", a)
				}
			})
		})
	}
}

// TestClockSetWhileAppsRun: apps that run well are left alone, however the clock on the
// wall is set, and what crashes then is started again.
func TestClockSetWhileAppsRun(t *testing.T) {
	for name, back := range map[string]time.Duration{"a day back": 24 * time.Hour, "a day forward": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, nil)
				a := w.settled(w.deploy(request()).ID)
				started, reasons := len(w.fake.Started()), len(w.reasons())
				w.back.Store(int64(back))
				time.Sleep(time.Hour)
				if a, _ = w.m.App(alice, ident.AppRef(a.ID)); a.State != managerapi.AppReady || len(w.fake.Started()) != started || len(w.reasons()) != reasons {
					t.Errorf("an hour later: %+v, %d starts, %q", a, len(w.fake.Started())-started, w.reasons()[reasons:])
				}
				w.fake.Crash(ident.AttemptID(w.instances("app")[0].ID+"-1"), 1, false)
				time.Sleep(time.Minute)
				if a, _ = w.m.App(alice, ident.AppRef(a.ID)); a.State != managerapi.AppReady || len(w.fake.Started()) != started+1 {
					t.Errorf("after a crash: %+v, %d starts", a, len(w.fake.Started())-started)
				}
			})
		})
	}
}

// TestClockSetBackDuringADeployment: neither does a deployment wait longer than its
// limits for an app that never listens.
func TestClockSetBackDuringADeployment(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Unhealthy: true}
		})
		a := w.deploy(request())
		time.Sleep(10 * time.Second)
		w.stop()
		w.back.Store(int64(24 * time.Hour))
		w.start()
		time.Sleep(20 * time.Minute)
		if a, _ = w.m.App(alice, ident.AppRef(a.ID)); a.Deployment.State != managerapi.DeploymentFailed {
			t.Errorf("20 minutes later: %+v", a.Deployment)
		}
	})
}

// TestClockSetForward: a deployment that the manager comes back to a day later, by the
// clock on the wall, goes on and has its time, and what the CAS was to hear is told.
func TestClockSetForward(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var ill atomic.Bool
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Unhealthy: ill.Load()}
		})
		w.settled(w.deploy(request()).ID)
		crashed := w.instances("app")[0]
		ill.Store(true)
		a := w.deploy(request())
		time.Sleep(10 * time.Second)
		w.cas.SetDown(true)
		w.fake.Crash(ident.AttemptID(crashed.ID+"-1"), 137, false)
		time.Sleep(3 * time.Second)
		w.stop()
		w.cas.SetDown(false)
		w.back.Store(-int64(48 * time.Hour))
		w.start()
		time.Sleep(30 * time.Second)

		if now, _ := w.m.App(alice, ident.AppRef(a.ID)); now.Deployment.State == managerapi.DeploymentFailed {
			t.Errorf("the deployment failed: %v", now.Deployment.Problem)
		}
		if !slices.Contains(w.cas.Gone(), crashed.InstanceID) {
			t.Errorf("the CAS was told of %v, want %v", w.cas.Gone(), crashed.InstanceID)
		}
		time.Sleep(20 * time.Minute)
		if now, _ := w.m.App(alice, ident.AppRef(a.ID)); now.Deployment.State != managerapi.DeploymentFailed {
			t.Errorf("20 minutes later: %+v", now.Deployment)
		}
	})
}
