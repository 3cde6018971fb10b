package manager_test

import (
	"slices"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
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
			LowPorts:  []uint16{443},
			Listed:    func(k ident.KeyHash) (bool, error) { return slices.Contains(mayDeploy, k), nil },
		}
		w.start()
		mends := map[string]string{"low_port": "--low-ports 443,80", "quota_key_apps": "--app-quota apps=NUMBER"}
		refused := func(rule problem.Rule, session ident.SessionName, instances int, port uint16) {
			t.Helper()
			req := request()
			req.Session, req.Instances, req.Port = session, instances, port
			_, err := w.m.Deploy(t.Context(), alice, w.granted(req))
			p := problem.From(err)
			if p == nil || p.Rule != rule {
				t.Errorf("%v, want rule %s", err, rule)
			}
			if mend := mends[string(rule)]; mend != "" && (!strings.Contains(p.Mend, "kill cupeld (apps go on), then") || !strings.Contains(p.Mend, ": cupel up "+mend+" …")) {
				t.Errorf("the mend of %s: %s; want one that gives a cupeld that runs %s", rule, p.Mend, mend) // a second one is refused
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

// TestListThatHangs: a list of keys that doesn't come, as from a network that is gone,
// keeps only who wants to deploy waiting.
func TestListThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.stop()
		reading, comes := make(chan struct{}), make(chan struct{})
		w.keys = manager.KeyLimits{Apps: 1, Instances: 4, Listed: func(ident.KeyHash) (bool, error) {
			close(reading)
			<-comes
			return true, nil
		}}
		w.start()
		req := w.granted(request())
		deployed := make(chan error)
		go func() {
			_, err := w.m.Deploy(t.Context(), alice, req)
			deployed <- err
		}()
		<-reading
		if apps := w.m.Apps(alice); len(apps) > 0 {
			t.Errorf("%+v", apps)
		}
		close(comes)
		if err := <-deployed; err != nil {
			t.Error(err)
		}
	})
}

// TestAppsLargerThanTheMachineStay: an app that runs with more memory than the machine
// turns out to have is deployed again as it is, and smaller, but not larger.
func TestAppsLargerThanTheMachineStay(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, nil)
			req := request()
			req.Memory = 1 << 30
			w.settled(w.deploy(req).ID)
			w.stop()
			w.memory = manager.MachineMemory{Total: 967 << 20, Refuse: refuse}
			w.start()

			same := request() // says nothing of memory: it stays
			same.Memory = 0
			fewer := request()
			fewer.Instances, fewer.Memory = 2, 0
			smaller := request()
			smaller.Instances, smaller.Memory = 2, 968<<20
			for _, again := range []managerapi.DeployRequest{same, fewer, smaller} {
				a := w.settled(w.deploy(again).ID)
				if a.State != managerapi.AppReady || a.Deployment.Warning == nil || a.Deployment.Warning.Rule != "memory_overcommitted" {
					t.Errorf("%+v", a)
				}
			}
			larger := request()
			larger.Instances, larger.Memory = 1, 1<<30
			_, err := w.m.Deploy(t.Context(), alice, w.granted(larger))
			if p := problem.From(err); p == nil || p.Rule != "memory" {
				t.Errorf("refuse %v: %v, want rule memory", refuse, err)
			}
		})
	}
}

// TestMisspeltRuntime: a deployment onto a runtime that is not built names the ones that
// are, and the one that was meant.
func TestMisspeltRuntime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		req := request()
		req.Runtime = "pyhton"
		if p := w.refusedDeploy(alice, req); p.Rule != "runtime" || p.Expected != "one of: puller, python" || p.Mend != `did you mean "python"?` {
			t.Errorf("%+v", p)
		}
	})
}
