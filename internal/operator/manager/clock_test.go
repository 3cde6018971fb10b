package manager_test

import (
	"testing"
	"time"

	wire "cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/backendtest"
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
				w.fake.Crash(id+"-1", 1, false)
				time.Sleep(10 * time.Millisecond) // its end is judged, and it waits for a second
				if away {
					w.stop()
				}
				w.back.Store(int64(24 * time.Hour))
				if away {
					w.start()
				}
				time.Sleep(time.Minute)
				if a, _ = w.m.App(alice, a.ID); a.State != wire.AppReady {
					t.Errorf("a minute later: %+v", a)
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
		if a, _ = w.m.App(alice, a.ID); a.Deployment.State != wire.DeploymentFailed {
			t.Errorf("20 minutes later: %+v", a.Deployment)
		}
	})
}
