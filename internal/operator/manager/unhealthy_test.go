package manager_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// TestUnhealthyIsTold: once where all instances of an app stop accepting connections, and
// once where one does again.
func TestUnhealthyIsTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		req := request()
		req.Instances = 2
		w.settled(w.deploy(req).ID)
		told := func(reason string) int {
			time.Sleep(time.Second)
			return len(slices.DeleteFunc(w.reasons(), func(r string) bool { return r != reason }))
		}
		list := w.instances("app")
		for i, in := range list {
			w.fake.SetHealth(ident.AttemptID(in.ID+"-1"), manager.HealthUnhealthy)
			if got := told("app_unhealthy"); got != i {
				t.Errorf("%d unhealthy: told %d times", i+1, got)
			}
		}
		if !strings.Contains(w.messages(), "no instance accepts connections any more, though 2 run: 'cupel ps'") {
			t.Error(w.messages())
		}
		w.fake.SetHealth(ident.AttemptID(list[0].ID+"-1"), manager.HealthHealthy)
		if u, h := told("app_unhealthy"), told("app_healthy"); u != 1 || h != 1 {
			t.Errorf("told %d times, and %d times that it is over", u, h)
		}
	})
}

// A deployment whose instances never accept connections is told by its end alone.
func TestUnhealthyDeploymentIsToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Unhealthy: s.Port != 0}
		})
		w.settled(w.deploy(request()).ID)
		if slices.Contains(w.reasons(), "app_unhealthy") {
			t.Error(w.reasons())
		}
	})
}

// Its end names how long it was given, whatever its instances say.
func TestUnhealthyDeploymentNamesItsLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		why := problem.New(problem.Unavailable, "unhealthy", "the app listens on no port yet").Fix("let it listen")
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			if s.Port == 0 {
				return backendtest.Script{Exit: true}
			}
			return backendtest.Script{Unhealthy: true, Problem: why}
		})
		p := w.settled(w.deploy(request()).ID).Deployment.Problem
		if p == nil || p.Rule != "unhealthy" || p.Actual != "gave up after 2 minutes: the app listens on no port yet" || p.Mend != "let it listen" {
			t.Errorf("%+v", p)
		}
	})
}
