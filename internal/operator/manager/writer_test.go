package manager_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// writing is a request for an app that writes a volume, with its grant.
func (w *world) writing() managerapi.DeployRequest {
	req := request()
	req.Instances = 1
	theirs := terms(req)
	theirs.Services["client-app"] = owners.GrantedService{Instances: 1, Writes: []string{"pgdata"}}
	req.Code = w.cas.Make(theirs).String()
	return req
}

// watchWriters fails the test if two app instances of the Backend ever run at the
// same time.
func (w *world) watchWriters() {
	w.t.Helper()
	events, err := w.fake.Watch(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		for range events {
			list, err := w.fake.List(w.t.Context())
			if err != nil {
				return
			}
			var up []string
			for _, s := range list {
				if s.State != manager.StateExited && strings.HasPrefix(string(s.ID), "i-") {
					up = append(up, string(s.ID))
				}
			}
			if len(up) > 1 {
				w.t.Errorf("two writers at once: %v", up)
			}
		}
	}()
}

// TestWriterStopsFirst: the old revision has ended before the next one starts, and
// people see for how long nothing served.
func TestWriterStopsFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Delay: 700 * time.Millisecond}
		})
		w.watchWriters()
		w.settled(w.deploy(w.writing()).ID)
		old := w.instances("app")[0]

		a := w.settled(w.deploy(w.writing()).ID)
		if a.State != managerapi.AppReady || a.Revision != 2 || a.Deployment.GapSeconds <= 0 {
			t.Errorf("%+v", a)
		}
		var names []string
		for _, s := range a.Deployment.Steps {
			names = append(names, s.Name)
		}
		if got := strings.Join(names, " "); got != "images pull stop start attest health switch drain" {
			t.Errorf("steps: %s", got)
		}
		if m := w.messages(); !strings.Contains(m, "nothing served for 7") || !strings.Contains(m, "pgdata") {
			t.Errorf("events:\n%s", m)
		}
		if now := w.instances("app"); len(now) != 1 || now[0].ID == old.ID {
			t.Errorf("%+v", now)
		}
		// Between the two the port is kept and leads nowhere.
		empty := slices.ContainsFunc(w.bal.applied[2:], func(f []manager.Frontend) bool { return len(f) == 1 && len(f[0].Endpoints) == 0 })
		if !empty {
			t.Errorf("the balancer led somewhere all the time: %+v", w.bal.applied)
		}
		if open := w.cas.Open(); len(open) != 1 || open[0] != *a.Grant {
			t.Errorf("grants: %v", open)
		}
	})
}

// TestWriterComesBack: if the new revision fails, the old one is started again,
// and not before the new one has ended.
func TestWriterComesBack(t *testing.T) {
	for name, script := range map[string]backendtest.Script{
		"it ends":       {Exit: true, Code: 3},
		"it runs, sick": {Unhealthy: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) { comesBack(t, script) })
		})
	}
}

func comesBack(t *testing.T, script backendtest.Script) {
	fails := false
	w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
		if fails && s.Labels["revision"] == "2" && s.Port != 0 {
			return script
		}
		return backendtest.Script{Exit: s.Port == 0}
	})
	w.fake.Ending = 300 * time.Millisecond
	w.watchWriters()
	w.settled(w.deploy(w.writing()).ID)
	old := w.instances("app")[0]

	fails = true
	a := w.settled(w.deploy(w.writing()).ID)
	if a.Deployment.State != managerapi.DeploymentFailed {
		t.Fatalf("%+v", a)
	}
	time.Sleep(5 * time.Second)
	a, err := w.m.App(alice, ident.AppRef(a.ID))
	if err != nil || a.State != managerapi.AppReady || a.Revision != 1 || a.Deployment.GapSeconds <= 0 {
		t.Errorf("%+v, %v", a, err)
	}
	for _, in := range w.instances("app") {
		if in.State == "running" && (in.ID != old.ID || in.Restarts != 0) {
			t.Errorf("%+v runs; want %s, and no failure counted", in, old.ID)
		}
	}
	m := w.messages()
	if !strings.Contains(m, "the revision before is started again") || !strings.Contains(m, "revision 1 serves again; nothing served for") {
		t.Errorf("events:\n%s", m)
	}
	if open := w.cas.Open(); len(open) != 1 || open[0] != *a.Grant {
		t.Errorf("grants: %v, the app's is %v", open, a.Grant)
	}
}

// TestWriterAndRestartedManager: killed at every step, the manager goes on, and
// never runs two.
func TestWriterAndRestartedManager(t *testing.T) {
	for step := range 16 {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
				return backendtest.Script{Exit: s.Port == 0, Delay: 500 * time.Millisecond}
			})
			w.fake.Ending = 200 * time.Millisecond
			w.watchWriters()
			w.settled(w.deploy(w.writing()).ID)
			a := w.deploy(w.writing())
			time.Sleep(time.Duration(step) * 100 * time.Millisecond)
			w.stop()
			w.start()
			if a = w.settled(a.ID); a.State != managerapi.AppReady || a.Revision != 2 {
				t.Errorf("killed after %d steps: %+v: %v", step, a, a.Deployment.Problem)
			}
			time.Sleep(2 * time.Second)
			if open := w.cas.Open(); len(open) != 1 || open[0] != *a.Grant {
				t.Errorf("killed after %d steps: grants %v, the app's is %v", step, open, a.Grant)
			}
		})
	}
}

// TestRestartedManagerKeepsOneGrant: the same for an app that writes nothing, at
// every step of a first deployment and of an update.
func TestRestartedManagerKeepsOneGrant(t *testing.T) {
	for step := range 24 {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
				return backendtest.Script{Exit: s.Port == 0, Delay: 300 * time.Millisecond}
			})
			w.fake.Ending = 100 * time.Millisecond
			a := w.deploy(request())
			time.Sleep(time.Duration(step) * 50 * time.Millisecond)
			w.stop()
			w.start()
			w.settled(a.ID)
			a = w.deploy(request())
			time.Sleep(time.Duration(step) * 50 * time.Millisecond)
			w.stop()
			w.start()
			if a = w.settled(a.ID); a.State != managerapi.AppReady || a.Revision != 2 {
				t.Errorf("killed after %d steps: %+v: %v", step, a, a.Deployment.Problem)
			}
			time.Sleep(2 * time.Second)
			if open := w.cas.Open(); len(open) != 1 || open[0] != *a.Grant {
				t.Errorf("killed after %d steps: grants %v, the app's is %v", step, open, a.Grant)
			}
		})
	}
}

// TestLostDataIsTold: an instance that kept nothing says so, in the event, in the
// list and in the deployment.
func TestLostDataIsTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(w.writing()).ID)
		in := w.instances("app")[0]
		w.fake.SetLastWord(ident.AttemptID(in.ID+"-1"), problem.New(problem.Unavailable, "not_committed", "a process had to be killed: pgdata is as it was when the instance started"))
		a := w.settled(w.deploy(w.writing()).ID)
		if w := a.Deployment.Warning; w == nil || w.Rule != "not_committed" {
			t.Errorf("the deployment says nothing: %+v", a.Deployment)
		}
		if m := w.messages(); !strings.Contains(m, "instance_not_committed "+in.ID+" a process had to be killed") {
			t.Errorf("events:\n%s", m)
		}

		in = w.instances("app")[0]
		w.fake.SetLastWord(ident.AttemptID(in.ID+"-1"), problem.New(problem.Unavailable, "not_committed", "killed at rm"))
		if _, err := w.m.RemoveInstance(t.Context(), alice, ident.InstanceRef(in.ID)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if m := w.messages(); !strings.Contains(m, "instance_not_committed "+in.ID+" killed at rm") {
			t.Errorf("events:\n%s", m)
		}
	})
}

// TestRefusedCommitIsTold: an app whose rights ended while it ran, as by another
// version of its session, keeps nothing of what it wrote; that is told as well.
func TestRefusedCommitIsTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(w.writing()).ID)
		in := w.instances("app")[0]
		w.fake.SetLastWord(ident.AttemptID(in.ID+"-1"), problem.New(problem.Denied, "instance_revoked", "the instance's rights ended"))
		a := w.settled(w.deploy(w.writing()).ID)
		if w := a.Deployment.Warning; w == nil || w.Rule != "not_committed" || !strings.Contains(w.Actual, "instance_revoked: the instance's rights ended") {
			t.Errorf("the deployment says nothing: %+v", a.Deployment)
		}
		if m := w.messages(); !strings.Contains(m, "instance_not_committed "+in.ID+" volume pgdata was not stored") {
			t.Errorf("events:\n%s", m)
		}
	})
}

// TestWriterThatBecameAReaderIsTold: the session's next version lets the service write
// no more, while it runs: what it wrote can't be stored, and the deployment that
// replaces it says so.
func TestWriterThatBecameAReaderIsTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(w.writing()).ID)
		in := w.instances("app")[0]
		w.fake.SetLastWord(ident.AttemptID(in.ID+"-1"), problem.New(problem.Denied, "lease_ended", "lease 1 of volume pgdata"))
		req := request()
		req.Instances = 1
		a := w.settled(w.deploy(req).ID)
		if w := a.Deployment.Warning; w == nil || w.Rule != "not_committed" {
			t.Errorf("the deployment says nothing: %+v", a.Deployment)
		}
		if m := w.messages(); !strings.Contains(m, "instance_not_committed "+in.ID+" what the app wrote since it started is lost: lease_ended: lease 1 of volume pgdata") {
			t.Errorf("events:\n%s", m)
		}
	})
}

// TestALossIsToldWhateverReplacedIt: a writer that is drained for a revision which
// writes nothing, and one of a deployment that another replaced, say what they lost;
// and the latter has its grant until it has ended.
func TestALossIsToldWhateverReplacedIt(t *testing.T) {
	for name, word := range map[string]*problem.Error{
		"revoked": problem.New(problem.Denied, "instance_revoked", "the instance's rights ended"),
		"node":    problem.New(problem.Unavailable, "registry_unreachable", "store the volume's snapshot"),
	} {
		t.Run("drained, "+name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.settled(w.deploy(w.writing()).ID)
				in := w.instances("app")[0]
				w.fake.SetLastWord(ident.AttemptID(in.ID+"-1"), word)
				req := request()
				req.Instances = 1
				if a := w.settled(w.deploy(req).ID); a.Deployment.Warning == nil || !strings.Contains(w.messages(), "instance_not_committed") {
					t.Errorf("warning %v; events:\n%s", a.Deployment.Warning, w.messages())
				}
			})
		})
		t.Run("replaced, "+name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
					return backendtest.Script{Exit: s.Port == 0, Unhealthy: s.Labels["revision"] == "2"}
				})
				w.settled(w.deploy(w.writing()).ID)
				first := w.instances("app")[0]
				w.deploy(w.writing())
				second := ""
				for second == "" {
					time.Sleep(100 * time.Millisecond)
					for _, in := range w.instances("app") {
						if in.ID != first.ID && in.State == "running" {
							second = in.ID
						}
					}
				}
				w.fake.SetLastWord(ident.AttemptID(second+"-1"), word)
				w.settled(w.deploy(w.writing()).ID)
				time.Sleep(5 * time.Second)
				text := w.messages()
				lost, back := strings.Index(text, "instance_not_committed "+second), strings.LastIndex(text, "grant_given_back")
				if lost < 0 || back < lost {
					t.Errorf("events:\n%s", text)
				}
			})
		})
	}
}

// TestRefusedCommitAfterAnUpgradeIsTold: of a revision from before there were
// grants nobody knows that it writes, until the next one does.
func TestRefusedCommitAfterAnUpgradeIsTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(w.writing()).ID)
		w.stop()
		w.forgetGrants()
		w.start()
		in := w.instances("app")[0]
		w.fake.SetLastWord(ident.AttemptID(in.ID+"-1"), problem.New(problem.Denied, "instance_revoked", "the instance's rights ended"))
		a := w.settled(w.deploy(w.writing()).ID)
		if w := a.Deployment.Warning; w == nil || w.Rule != "not_committed" {
			t.Errorf("the deployment says nothing: %+v", a.Deployment)
		}
	})
}
