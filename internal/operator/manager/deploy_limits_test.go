package manager_test

import (
	"slices"
	"testing"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// TestDeployWithinLimits: a request beyond the limits of its owner's key is
// refused and leaves nothing, and its app goes on.
func TestDeployWithinLimits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.stop()
		mayDeploy := []ident.KeyHash{alice}
		w.keys = manager.KeyLimits{
			Apps:      1,
			Instances: 4,
			Listed:    func(k ident.KeyHash) (bool, error) { return slices.Contains(mayDeploy, k), nil },
		}
		w.start()
		refused := func(rule string, session ident.SessionName, instances int, port uint16) {
			t.Helper()
			req := request()
			req.Session, req.Instances, req.Port = session, instances, port
			_, err := w.m.Deploy(t.Context(), alice, w.granted(req))
			if p := problem.From(err); p == nil || p.Rule != rule {
				t.Errorf("%v, want rule %s", err, rule)
			}
		}

		first := w.settled(w.deploy(request()).ID)
		refused("quota_key_apps", "alice/other", 1, 8081)
		refused("quota_key_instances", "alice/shop", 5, 8080)
		refused("low_port", "alice/shop", 3, 80)
		mayDeploy = nil
		refused("key_not_listed", "alice/shop", 3, 8080)
		mayDeploy = []ident.KeyHash{alice}

		apps := w.m.Apps(alice)
		if len(apps) != 1 || apps[0].Revision != first.Revision || apps[0].Instances != 3 {
			t.Errorf("afterwards: %+v", apps)
		}
	})
}
