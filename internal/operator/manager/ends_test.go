package manager_test

import (
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
)

// TestJobIsNotRunAgain: an app that ends with 0 in its first deployment did what it
// was to do. It is told plainly, and not done twice.
func TestJobIsNotRunAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(manager.InstanceSpec) backendtest.Script { return backendtest.Script{Exit: true} })
		req := request()
		req.Instances = 1
		a := w.settled(w.deploy(req).ID)
		if p := a.Deployment.Problem; p == nil || p.Rule != "app_ended" || !strings.Contains(p.Actual, "the app ended by itself, with code 0") {
			t.Errorf("problem %v", p)
		}
		if n := len(w.fake.Started()); n != 2 {
			t.Errorf("%d starts, want the pull and one", n)
		}
	})
}

// TestLogOfTheLastFailure: what a crashed attempt wrote can be read until the next
// one fails, also when the app serves again.
func TestLogOfTheLastFailure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(request()).ID)
		in := w.instances("app")[0]
		previous := func() (lines []string, err error) {
			err = w.m.Logs(t.Context(), alice, manager.LogQuery{Instance: ident.InstanceRef(in.ID), LogOptions: manager.LogOptions{Tail: -1}, Previous: true}, manager.Sink[managerapi.LogLine]{Waits: unheard, Emit: func(l managerapi.LogLine) error {
				lines = append(lines, l.Line)
				return nil
			}})
			return lines, err
		}
		if _, err := previous(); err == nil {
			t.Error("there is a log of a run before the first")
		}
		for attempt, id := range []string{in.ID + "-1", in.ID + "-2"} {
			w.fake.Crash(ident.AttemptID(id), 1, false)
			time.Sleep(10 * time.Minute)
			if got := w.instances("app")[0]; got.Health != "healthy" {
				t.Fatalf("after crash %d: %+v", attempt+1, got)
			}
			lines, err := previous()
			if err != nil || strings.Join(lines, " ") != "started exited" {
				t.Errorf("after crash %d: %q, %v", attempt+1, lines, err)
			}
		}
		if list, _ := w.fake.List(t.Context()); len(list) != 5 {
			t.Errorf("%d attempts are kept, want three that run, the one that failed last, and the pull", len(list))
		}
	})
}

// TestFailedUpdateSaysWhatServes: nobody is told that something serves where nothing
// does.
func TestFailedUpdateSaysWhatServes(t *testing.T) {
	for outcome, serves := range map[string]bool{
		"; the revision before goes on serving":                         true,
		"; the revision before stays, but none of its instances serves": false,
	} {
		t.Run(outcome, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				bad := false
				w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
					return backendtest.Script{Exit: s.Port == 0 || bad, Code: map[bool]int{true: 3}[bad && s.Port != 0]}
				})
				w.settled(w.deploy(request()).ID)
				bad = true
				if !serves {
					for _, in := range w.instances("app") {
						w.fake.Crash(ident.AttemptID(in.ID+"-1"), 1, false)
					}
				}
				w.settled(w.deploy(request()).ID)
				if got := w.messages(); !strings.Contains(got, outcome) {
					t.Errorf("want %q in\n%s", outcome, got)
				}
			})
		})
	}
}

// TestServiceIsKept: an app goes on as the service that it is, whatever else of it
// changes.
func TestServiceIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		code := func(req managerapi.DeployRequest, services ...ident.ServiceName) managerapi.DeployRequest {
			reply := terms(req)
			reply.Services = map[ident.ServiceName]owners.GrantedService{"pull_repo": {Runs: 1}}
			for _, s := range services {
				reply.Services[s] = owners.GrantedService{Instances: 3}
			}
			req.Code = w.cas.Make(reply).String()
			return req
		}
		first := request()
		first.Service = "web"
		a := w.settled(w.deploy(code(first, "web", "client-app")).ID)
		if a.Service != "web" {
			t.Fatalf("service %s", a.Service)
		}
		for _, name := range []string{"", a.Name} {
			next := request()
			next.Name = name
			if a = w.settled(w.deploy(code(next, "web", "client-app")).ID); a.Service != "web" || a.Revision == 1 {
				t.Errorf("updated with --name %q: %+v", name, a)
			}
		}
		only := request()
		only.Session, only.Port = "alice/other", 9090
		if a = w.settled(w.deploy(code(only, "api")).ID); a.Service != "api" {
			t.Errorf("a grant that lets one service serve: %+v", a)
		}
	})
}
