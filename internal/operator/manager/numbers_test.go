package manager_test

import (
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// TestNumbersAreNamed: whoever reaches a number that is the same for everybody hears
// which it is, and what to do.
func TestNumbersAreNamed(t *testing.T) {
	t.Run("instances", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			req := request()
			req.Instances = 101
			p := newWorld(t, nil).refusedDeploy(alice, req)
			if p.Rule != "instances" || p.Expected != "1 to 100 of one app" || !strings.Contains(p.Mend, "several apps") {
				t.Errorf("%v", p)
			}
		})
	})
	t.Run("deployment", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, func(manager.InstanceSpec) backendtest.Script { return backendtest.Script{Hang: true} })
			a := w.deploy(request())
			time.Sleep(20 * time.Minute)
			a, err := w.m.App(alice, ident.AppRef(a.ID))
			if err != nil || a.Deployment.State != managerapi.DeploymentFailed {
				t.Fatalf("%+v, %v", a, err)
			}
			if said := a.Deployment.Problem.Error(); !strings.Contains(said, "15 minutes") || !strings.Contains(said, "cupel events "+a.Name) {
				t.Error(said)
			}
		})
	})
	t.Run("drain", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, nil)
			w.settled(w.deploy(request()).ID)
			w.bal.hold(w.instances("app")[0].ID, 1)
			w.settled(w.deploy(request()).ID)
			time.Sleep(time.Minute)
			if said := w.messages(); !strings.Contains(said, "still open 30 seconds after") || !strings.Contains(said, "cupel up --drain") {
				t.Error(said)
			}
		})
	})
}
