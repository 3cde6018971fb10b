package manager_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/testing/backendtest"
	"cupel.dev/cupel/internal/testing/grantstest"
)

// messages are all events as a person reads them.
func (w *world) messages() string {
	w.t.Helper()
	var b strings.Builder
	err := w.m.Events(w.t.Context(), operator, manager.EventQuery{}, manager.Sink[managerapi.Event]{Waits: unheard, Emit: func(e managerapi.Event) error {
		fmt.Fprintf(&b, "%s %s %s\n", e.Reason, e.Instance, e.Message)
		return nil
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	return b.String()
}

// refusedDeploy asks and returns the refusal.
func (w *world) refusedDeploy(caller ident.KeyHash, req managerapi.DeployRequest) *problem.Error {
	w.t.Helper()
	_, err := w.m.Deploy(w.t.Context(), caller, req)
	if err == nil {
		w.t.Fatalf("%+v is accepted", req)
	}
	return problem.From(err)
}

// TestStranger: a key that only knows a session's name gets nothing started.
func TestStranger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.refusedDeploy(mallory, request())
		if p.Kind != problem.Denied || p.Rule != "grant_missing" || !strings.Contains(p.Mend, "cupel deploy alice/shop") || !strings.Contains(p.Mend, "cupel session submit") {
			t.Errorf("without a code: %v", p)
		}

		other := w.granted(request()).Code
		req := request()
		req.Session, req.Code = "mallory/own", other
		if p := w.refusedDeploy(mallory, req); p.Rule != "grant_other" || strings.Contains(p.Error(), other) {
			t.Errorf("a code for another session: %v", p)
		}
		req = request()
		req.Code = "cupel1.AAAA"
		if p := w.refusedDeploy(mallory, req); p.Rule != "grant_code" || strings.Contains(p.Error(), req.Code) {
			t.Errorf("half a code: %v", p)
		}
		code := w.cas.Make(terms(request()))
		code.CAS[0] ^= 1
		req.Code = code.String()
		asked := w.cas.Asked()
		if p := w.refusedDeploy(mallory, req); p.Rule != "cas_other" || w.cas.Asked() != asked {
			t.Errorf("a code of another CAS: %v", p)
		}
		if len(w.m.Apps(operator)) != 0 || len(w.fake.Started()) != 0 {
			t.Errorf("something was made")
		}
	})
}

// TestTheAppBelongsToTheMaker: whoever hands a code in gets no right to the app.
func TestTheAppBelongsToTheMaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a, err := w.m.Deploy(t.Context(), mallory, w.granted(request()))
		if err != nil || a.Owner != alice {
			t.Fatalf("%+v, %v", a, err)
		}
		if _, err := w.m.App(mallory, ident.AppRef(a.ID)); problem.KindOf(err) != problem.NotFound {
			t.Errorf("the bearer sees the app: %v", err)
		}
		if a = w.settled(a.ID); a.State != managerapi.AppReady || a.Grant == nil || a.Deployment.Grant == nil || *a.Grant != *a.Deployment.Grant {
			t.Errorf("%+v", a)
		}
	})
}

// TestAnotherCASSpeaksForNobody: whoever brings a CAS of their own can't have it
// say whose an app is.
func TestAnotherCASSpeaksForNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)

		evil := grantstest.NewFake("evil:1", ident.KeyHash{0xe0})
		w.cas.Know(evil)
		req := request()
		req.CAS = &managerapi.CASRef{Instances: string(evil.Addr), Identity: evil.Identity}
		req.Code = evil.Make(terms(request())).String() // it says that alice made it
		if p := w.refusedDeploy(mallory, req); p.Rule != "not_maker" || p.Kind != problem.Denied {
			t.Errorf("%v", p)
		}
		if got, err := w.m.App(alice, ident.AppRef(a.ID)); err != nil || got.Deployment.Revision != a.Revision {
			t.Errorf("alice's app changed: %+v, %v", got, err)
		}

		// Her own key on the connection is her word; that the CAS is away is not
		// told in detail.
		if _, err := w.m.Deploy(t.Context(), alice, req); err != nil {
			t.Errorf("alice, at a CAS of her choice: %v", err)
		}
		evil.SetDown(true)
		req.Code = evil.Make(terms(request())).String()
		if p := w.refusedDeploy(alice, req); p.Rule != "cas_unreachable" || strings.Contains(p.Error(), "does not answer;") {
			t.Errorf("%v", p)
		}
	})
}

// TestGrantMustCover: the grant's numbers bind before anything is started.
func TestGrantMustCover(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		for rule, change := range map[string]func(*owners.ClaimReply){
			"grant_instances": func(r *owners.ClaimReply) { r.Services["client-app"] = owners.GrantedService{Instances: 2} },
			"grant_other":     func(r *owners.ClaimReply) { r.Session = "alice/other" },
			"writes_volume": func(r *owners.ClaimReply) {
				r.Services["client-app"] = owners.GrantedService{Instances: 3, Writes: []string{"pgdata"}}
			},
		} {
			req, less := request(), terms(request())
			change(&less)
			req.Code = w.cas.Make(less).String()
			p := w.refusedDeploy(alice, req)
			if string(p.Rule) != rule || p.Mend == "" {
				t.Errorf("%s: %v", rule, p)
			}
			if rule == "writes_volume" && (!strings.Contains(p.Mend, "ephemeral") || !strings.Contains(p.Actual, "pgdata")) {
				t.Errorf("%v", p)
			}
		}
		noPull := terms(request())
		delete(noPull.Services, "pull_repo")
		req := request()
		req.Code = w.cas.Make(noPull).String()
		if p := w.refusedDeploy(alice, req); p.Rule != "grant_instances" {
			t.Errorf("no run of the pull: %v", p)
		}
		if len(w.fake.Started()) != 0 {
			t.Errorf("started: %+v", w.fake.Started())
		}

		// A number that is left open is the grant's.
		req = request()
		req.Instances = 0
		two := terms(request())
		two.Services["client-app"] = owners.GrantedService{Instances: 2}
		req.Code = w.cas.Make(two).String()
		if a := w.settled(w.deploy(req).ID); a.Instances != 2 || a.Healthy != 2 {
			t.Errorf("%d instances, %d healthy; want the 2 of the grant", a.Instances, a.Healthy)
		}
	})
}

// TestCodeIsUsedOnce: over restarts, and when its app is gone.
func TestCodeIsUsedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		req := w.granted(request())
		a := w.settled(w.deploy(req).ID)
		used := func() {
			t.Helper()
			if p := w.refusedDeploy(alice, req); p.Rule != "code_used" || !strings.Contains(p.Actual, "200") || !strings.Contains(p.Mend, "session submit") {
				t.Errorf("again: %v", p)
			}
		}
		used()
		w.stop()
		w.start()
		used()
		if _, err := w.m.RemoveApp(t.Context(), alice, ident.AppRef(a.ID)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		used()

		// Who knows no more than the grant's name learns nothing.
		guess, err := owners.ParseGrantCode(req.Code)
		if err != nil {
			t.Fatal(err)
		}
		guess.Secret[0] ^= 1
		req.Code = guess.String()
		if p := w.refusedDeploy(mallory, req); p.Rule != "grant_code" {
			t.Errorf("a guess: %v", p)
		}
	})
}

// TestTwoManagers: a code that one manager claimed is worth nothing at another.
func TestTwoManagers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		req := w.granted(request())
		code, err := owners.ParseGrantCode(req.Code)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.cas.Holder(ident.KeyHash{77}).Claim(t.Context(), w.cas.Addr, code); err != nil {
			t.Fatal(err)
		}
		if p := w.refusedDeploy(alice, req); p.Kind != problem.Conflict || p.Rule != "grant_claimed" {
			t.Errorf("%v", p)
		}
	})
}

// TestKilledBetweenClaimAndCommit: the same code can be handed in again.
func TestKilledBetweenClaimAndCommit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		req := w.granted(request())
		w.full.Store(true)
		if p := w.refusedDeploy(alice, req); p.Rule != "disk_full" {
			t.Errorf("%v", p)
		}
		w.full.Store(false)
		w.stop()
		w.start()
		if a := w.settled(w.deploy(req).ID); a.State != managerapi.AppReady {
			t.Errorf("%+v", a)
		}
	})
}

// tokens returns the token of every start, in order.
func (w *world) tokens() []string {
	var out []string
	for _, s := range w.fake.Started() {
		out = append(out, string(s.Grant.Reveal()))
	}
	return out
}

// TestOneGrantIsLeft follows grants over updates that succeed, fail, and are
// replaced, and over the app's end.
func TestOneGrantIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fails := false
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Unhealthy: fails && s.Port != 0, Delay: time.Second}
		})
		left := func(when string, want ...*owners.GrantID) {
			t.Helper()
			time.Sleep(2 * time.Second)
			got := w.cas.Open()
			if len(got) != len(want) || len(want) == 1 && got[0] != *want[0] {
				t.Errorf("%s: %v are left, want %v", when, got, want)
			}
		}
		a := w.settled(w.deploy(request()).ID)
		first := a.Grant
		left("deployed", first)

		a = w.settled(w.deploy(request()).ID)
		second := a.Grant
		left("updated", second)
		if *second == *first {
			t.Errorf("the update goes on under the old grant")
		}

		fails = true
		w.settled(w.deploy(request()).ID)
		left("failed", second)

		fails = false
		replaced := w.deploy(request())
		time.Sleep(500 * time.Millisecond)
		a = w.settled(w.deploy(request()).ID)
		left("replaced", a.Grant)
		if *a.Grant == *replaced.Deployment.Grant {
			t.Errorf("the replaced deployment's grant serves")
		}

		// A restart that the CAS misses, too.
		w.cas.SetDown(true)
		if _, err := w.m.RemoveApp(t.Context(), alice, ident.AppRef(a.ID)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if len(w.m.Apps(operator)) != 0 {
			t.Errorf("the app waits for the CAS")
		}
		w.stop()
		w.start()
		time.Sleep(5 * time.Second)
		w.cas.SetDown(false)
		time.Sleep(2 * time.Minute)
		left("removed")
		if !strings.Contains(w.messages(), "grant_given_back") {
			t.Errorf("events: %s", w.messages())
		}
	})
}

// TestTokensStandNowhereElse looks for tokens and codes in all that the manager
// tells.
func TestTokensStandNowhereElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		req := w.granted(request())
		a := w.settled(w.deploy(req).ID)
		list, err := w.m.Instances(t.Context(), alice, "")
		if err != nil {
			t.Fatal(err)
		}
		told, err := json.Marshal(map[string]any{"app": a, "instances": list, "events": w.messages()})
		if err != nil {
			t.Fatal(err)
		}
		said := string(told) + fmt.Sprintf("%+v %#v", w.fake.Started(), w.fake.Started())
		tokens := w.tokens()
		if len(tokens) != 4 || tokens[0] == "" || strings.Contains(said, tokens[0]) || strings.Contains(said, req.Code) {
			t.Errorf("the token is told: %s", said)
		}
		if info, err := os.Stat(w.path); err != nil || info.Mode() != 0o600 {
			t.Errorf("the file with tokens: %v, %v", info.Mode(), err)
		}
	})
}

// TestPullThatRanBefore: a manager that restarts while the pull ends may start it
// again; the CAS says that it ran, and that is enough.
func TestPullThatRanBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		used := problem.New(problem.Conflict, "grant_used", "the one run is used")
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			if s.Port == 0 {
				return backendtest.Script{Exit: true, Code: 125, Problem: used}
			}
			return backendtest.Script{}
		})
		if a := w.settled(w.deploy(request()).ID); a.State != managerapi.AppReady {
			t.Errorf("%+v: %v", a, a.Deployment.Problem)
		}
	})
}

// TestPlacesAndLeasesAreWaitedFor: that another has the place, or the lease, is
// no failure of the instance.
func TestPlacesAndLeasesAreWaitedFor(t *testing.T) {
	for _, rule := range []string{"grant_full", "lease_held"} {
		t.Run(rule, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				tries := 0
				w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
					if s.Port == 0 {
						return backendtest.Script{Exit: true}
					}
					if tries++; tries < 8 {
						return backendtest.Script{Exit: true, Code: 125, Problem: problem.New(problem.Unavailable, problem.Rule(rule), "instance 1a2b has it")}
					}
					return backendtest.Script{}
				})
				req := request()
				req.Instances = 1
				a := w.deploy(req)
				time.Sleep(2 * time.Second)
				if a, err := w.m.App(alice, ident.AppRef(a.ID)); err != nil || a.Deployment.Waiting == nil || string(a.Deployment.Waiting.Rule) != rule {
					t.Errorf("while it waits: %+v, %v", a.Deployment, err)
				}
				if a = w.settled(a.ID); a.State != managerapi.AppReady {
					t.Errorf("%+v: %v", a, a.Deployment.Problem)
				}
				if in := w.instances("app")[0]; in.Restarts != 0 {
					t.Errorf("%d restarts are counted", in.Restarts)
				}
			})
		})
	}
}

// TestGrantThatEnds: the app shows what its owner has to do, and nobody tries
// again and again.
func TestGrantThatEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var ended *problem.Error
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			if ended != nil {
				return backendtest.Script{Exit: true, Code: 125, Problem: ended}
			}
			return backendtest.Script{Exit: s.Port == 0}
		})
		a := w.settled(w.deploy(request()).ID)
		ended = problem.New(problem.Denied, "grant_ended", "the grant was withdrawn")
		for _, in := range w.instances("app") {
			w.fake.Crash(ident.AttemptID(in.ID+"-1"), 137, false)
		}
		time.Sleep(10 * time.Minute)
		a, err := w.m.App(alice, ident.AppRef(a.ID))
		if err != nil || a.State != managerapi.AppDown || a.Problem == nil || a.Problem.Rule != "grant_ended" || !strings.Contains(a.Problem.Mend, "cupel deploy alice/shop") {
			t.Errorf("%+v, %v", a, a.Problem)
		}
		if n := strings.Count(w.messages(), "owner_needed"); n != 1 {
			t.Errorf("the owner is called %d times:\n%s", n, w.messages())
		}
		if n := len(w.fake.Started()); n > 4+3*12 {
			t.Errorf("%d starts in ten minutes", n)
		}

		ended = nil
		if a = w.settled(w.deploy(request()).ID); a.State != managerapi.AppReady || a.Problem != nil {
			t.Errorf("deployed once more: %+v, %v", a, a.Problem)
		}
	})
}

// TestPlacesBecomeFree: who was killed can't tell the CAS; the manager does.
func TestPlacesBecomeFree(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(request()).ID)
		in := w.instances("app")[0]
		w.cas.SetDown(true)
		w.fake.Crash(ident.AttemptID(in.ID+"-1"), 137, false)
		time.Sleep(3 * time.Second)
		w.stop() // killed before it could tell
		w.start()
		w.cas.SetDown(false)
		time.Sleep(time.Minute)
		if !slices.Contains(w.cas.Gone(), in.InstanceID) {
			t.Errorf("the CAS was told of %v, want %v", w.cas.Gone(), in.InstanceID)
		}
		// The replacement shows the same token.
		tokens := w.tokens()
		if last := tokens[len(tokens)-1]; last != tokens[0] {
			t.Errorf("the restart has another token")
		}
	})
}

// TestStateFromBeforeGrants: apps go on as they are; their owner is asked for.
func TestStateFromBeforeGrants(t *testing.T) {
	bubble(t, func(t *testing.T) {
		refuses := false
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			if refuses && s.Grant.Len() == 0 {
				return backendtest.Script{Exit: true, Code: 125, Problem: problem.New(problem.Denied, "grant_missing", "no grant was shown")}
			}
			return backendtest.Script{Exit: s.Port == 0}
		})
		a := w.settled(w.deploy(request()).ID)
		w.stop()
		w.forgetGrants()
		refuses = true
		w.start()
		time.Sleep(time.Second)
		if need := w.m.NeedOwner(); len(need) != 1 || need[0].Name != a.Name || need[0].State != managerapi.AppReady {
			t.Errorf("%+v need their owner", need)
		}
		if m := w.messages(); strings.Count(m, "owner_needed") != 1 || !strings.Contains(m, "cupel deploy alice/shop") {
			t.Errorf("events:\n%s", m)
		}
		w.stop()
		w.start()
		time.Sleep(time.Second)
		if n := strings.Count(w.messages(), "owner_needed"); n != 1 {
			t.Errorf("the owner is called %d times", n)
		}

		// One that ends is not started again: its launcher may be none of that time,
		// and what that one would say points elsewhere.
		before := len(w.fake.Started())
		w.fake.Crash(ident.AttemptID(w.instances("app")[0].ID+"-1"), 1, false)
		time.Sleep(10 * time.Minute)
		if n := len(w.fake.Started()); n != before {
			t.Errorf("%d starts of a revision without a grant", n-before)
		}
		shown, err := w.m.App(alice, ident.AppRef(a.ID))
		if err != nil || shown.Problem == nil || !strings.Contains(shown.Problem.Error(), "is not started again") {
			t.Errorf("%+v, %v: want it to say that it isn't started again", shown.Problem, err)
		}

		if a := w.settled(w.deploy(request()).ID); a.State != managerapi.AppReady || a.Problem != nil || len(w.m.NeedOwner()) != 0 {
			t.Errorf("deployed once: %+v", a)
		}
	})
}

// forgetGrants makes the stored apps those of an earlier release.
func (w *world) forgetGrants() {
	w.t.Helper()
	db, err := managerdb.Open(w.t.Context(), w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	state, err := db.Load(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, a := range state.Apps {
		a.Current.Grant, a.Current.Writes = nil, nil
		if _, err := db.Apply(w.t.Context(), manager.Change{Apps: []*manager.App{a}}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestSessionThatAsksForNoGrant: its app belongs to whoever deploys it.
func TestSessionThatAsksForNoGrant(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		req := request()
		req.Ungranted = true
		a, err := w.m.Deploy(t.Context(), mallory, req)
		if err != nil || a.Owner != mallory {
			t.Fatalf("%+v, %v", a, err)
		}
		time.Sleep(time.Minute)
		a, err = w.m.App(mallory, ident.AppRef(a.ID))
		if err != nil || a.State != managerapi.AppReady || a.Problem != nil || w.cas.Asked() != 0 {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

// hanging are the grants of a manager whom one CAS keeps waiting, for as long as
// client.Holder lets it.
type hanging struct {
	manager.Grants
	addr ident.Address
}

func (h hanging) GiveBack(ctx context.Context, addr ident.Address, cas ident.KeyHash, token owners.GrantToken) error {
	if addr != h.addr {
		return h.Grants.GiveBack(ctx, addr, cas, token)
	}
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Second):
	}
	return problem.New(problem.Unavailable, "cas_unreachable", "no answer")
}

// TestAHangingCASHoldsUpNobody: whoever brings a CAS that never answers keeps
// no other owner's grant from being given back.
func TestAHangingCASHoldsUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.stop()
		w.held = func(g manager.Grants) manager.Grants { return hanging{g, "evil:1"} }
		w.start()
		evil := grantstest.NewFake("evil:1", ident.KeyHash{0xe0})
		w.cas.Know(evil)
		for range 100 { // each replaces the one before, whose grant is given back
			req := request()
			req.Session, req.Port = "mallory/own", 0
			req.CAS = &managerapi.CASRef{Instances: string(evil.Addr), Identity: evil.Identity}
			hers := terms(req)
			hers.Maker = mallory
			code := evil.Make(hers)
			for code.Grant[0] > 4 { // what comes first is hers to choose
				code = evil.Make(hers)
			}
			req.Code = code.String()
			if _, err := w.m.Deploy(t.Context(), mallory, req); err != nil {
				t.Fatal(err)
			}
		}

		old := w.settled(w.deploy(request()).ID)
		if a := w.settled(w.deploy(request()).ID); a.State != managerapi.AppReady {
			t.Fatalf("%+v", a)
		}
		time.Sleep(time.Minute)
		if slices.Contains(w.cas.Open(), *old.Grant) {
			t.Error("alice's grant is not given back")
		}
	})
}
