package manager_test

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/testing/backendtest"
	"cupel.dev/cupel/internal/testing/castest"
	"cupel.dev/cupel/internal/trusted/wire"
)

// realCAS is a manager whose instances are released by a real CAS, as launchers
// are. Only pulls report their end.
type realCAS struct {
	t     *testing.T
	env   *castest.Env
	owner *castest.Owner
	key   *castest.Key // the operator's
	fake  *backendtest.Fake
	m     *manager.Manager
	code  ident.Measurement

	mu    sync.Mutex
	shown []owners.GrantToken // by instances, in order
}

func startReal(t *testing.T) *realCAS {
	t.Helper()
	env := castest.Start(t, castest.Options{KeepAlive: time.Hour}) // nothing lapses by itself
	key, err := castest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r := &realCAS{t: t, env: env, owner: env.Owner(t), key: key, fake: backendtest.NewFake(), code: ident.Measurement{7}}
	r.fake.Script = func(spec manager.InstanceSpec) backendtest.Script {
		p := r.launch(spec)
		return backendtest.Script{Exit: spec.Port == 0 || p != nil, Problem: p}
	}

	service := func(name string) string {
		return "  - name: " + name + "\n    command: app\n    attestation:\n      - mrenclave: [" + r.code.String() + "]\n"
	}
	text := "name: shop\nversion: \"0.3.10\"\nservices:\n" + service("client-app") + service("pull_repo") +
		"security:\n  attestation:\n    tolerate: [\"simulation:" + ident.Sum(env.Platform.Root().Raw).String() + "\"]\n"
	if _, err := r.owner.Do(t.Context(), http.MethodPost, owners.PathSessions, []byte(text), nil); err != nil {
		t.Fatal(err)
	}
	r.m = r.manager(key, r.fake)
	return r
}

// launch is what a launcher does at its start.
func (r *realCAS) launch(spec manager.InstanceSpec) *problem.Error {
	token, err := owners.ParseGrantToken(string(spec.Grant.Reveal()))
	if err != nil {
		return problem.From(err)
	}
	r.mu.Lock()
	r.shown = append(r.shown, token)
	r.mu.Unlock()
	return problem.From(r.ask(spec.Config.Service, token))
}

// ask asks the CAS to release to an instance that shows a token.
func (r *realCAS) ask(service ident.ServiceName, token owners.GrantToken) error {
	in, err := castest.NewInstance(r.env.Instances, r.env.Identity, r.env.Platform, "shop", service, r.code)
	if err != nil {
		return err
	}
	in.Grant = token
	conn, _, err := in.Release(context.Background())
	if err != nil {
		return err
	}
	defer conn.Close()
	if service != "pull_repo" {
		return nil
	}
	return conn.Post(wire.PathExit, wire.Exit{Version: wire.ReleaseVersion}, &struct{}{})
}

// manager starts one with that key.
func (r *realCAS) manager(key *castest.Key, backend manager.Backend) *manager.Manager {
	r.t.Helper()
	db, err := managerdb.Open(r.t.Context(), filepath.Join(r.t.TempDir(), "manager.db"))
	if err != nil {
		r.t.Fatal(err)
	}
	bal := &balancer{taken: map[uint16]bool{}}
	limits := manager.DefaultLimits()
	limits.BackoffMin = 10 * time.Millisecond
	m, err := manager.New(r.t.Context(), manager.Config{
		Store: db, Backend: backend, Balancer: bal, Catalog: catalog{}, Grants: &client.Holder{Certificate: key.Cert},
		CAS: managerapi.CASRef{Instances: r.env.Instances, Identity: r.env.Identity}, Limits: &limits,
		PortFree: bal.free, FirstPort: 8082, Operator: key.Hash, Simulated: true, Now: time.Now,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
		_ = db.Close()
	})
	return m
}

// request asks for n instances, with the code of the owner's grant.
func (r *realCAS) request(n int) managerapi.DeployRequest {
	r.t.Helper()
	made, err := r.owner.Grant(r.t.Context(), "shop", map[ident.ServiceName]owners.GrantedService{"client-app": {Instances: n}, "pull_repo": {Runs: 1}})
	if err != nil {
		r.t.Fatal(err)
	}
	return managerapi.DeployRequest{Version: 1, Session: "shop", Runtime: "python", Instances: n, Code: made.Code}
}

// deployed deploys and waits for the end.
func (r *realCAS) deployed(req managerapi.DeployRequest) managerapi.App {
	r.t.Helper()
	a, err := r.m.Deploy(r.t.Context(), r.owner.Key.Hash, req)
	if err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "the deployment ends", func() bool {
		a, err = r.m.App(r.owner.Key.Hash, ident.AppRef(a.ID))
		return err == nil && a.Deployment.State != managerapi.DeploymentRunning
	})
	if a.State != managerapi.AppReady {
		r.t.Fatalf("%+v: %v", a, a.Deployment.Problem)
	}
	return a
}

// grants are the session's that have not ended, as its owner sees them.
func (r *realCAS) grants() []owners.Grant {
	r.t.Helper()
	var all owners.Grants
	if _, err := r.owner.Do(r.t.Context(), http.MethodGet, owners.PathGrants+"?session=shop", nil, &all); err != nil {
		r.t.Fatal(err)
	}
	return slices.DeleteFunc(all.Grants, func(g owners.Grant) bool { return g.State == owners.GrantEnded })
}

// apps are the app's instances, without its pulls.
func (r *realCAS) apps(a managerapi.App) []managerapi.Instance {
	r.t.Helper()
	list, err := r.m.Instances(r.t.Context(), r.owner.Key.Hash, ident.AppRef(a.ID))
	if err != nil {
		r.t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(i managerapi.Instance) bool { return i.Role != "app" })
}

// eventually waits for what happens beside the test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// TestOldTokenAfterAnUpdate: what an operator kept of the revision before opens
// nothing any more, and the app's grant holds as many as were asked for.
func TestOldTokenAfterAnUpdate(t *testing.T) {
	r := startReal(t)
	r.deployed(r.request(2))
	old := r.shown[len(r.shown)-1]
	a := r.deployed(r.request(2))
	eventually(t, "one grant is left", func() bool { return len(r.grants()) == 1 })

	if err := r.ask("client-app", old); problem.From(err) == nil || problem.From(err).Rule != "grant_ended" {
		t.Errorf("the old token: %v", err)
	}
	left := r.grants()[0]
	if a.Grant == nil || left.ID != *a.Grant || len(left.Places["client-app"].Instances) != 2 || left.ClaimedBy != r.key.Hash {
		t.Errorf("left is %+v, the app's is %v", left, a.Grant)
	}
	// The operator has the new token too: it opens no third place, and no pull.
	current := r.shown[len(r.shown)-1]
	if err := r.ask("client-app", current); problem.From(err) == nil || problem.From(err).Rule != "grant_full" {
		t.Errorf("one more by hand: %v", err)
	}
	if err := r.ask("pull_repo", current); problem.From(err) == nil || problem.From(err).Rule != "grant_used" {
		t.Errorf("the pull once more: %v", err)
	}
}

// TestCodeAtTwoManagers: the first that claims it has it.
func TestCodeAtTwoManagers(t *testing.T) {
	r := startReal(t)
	key, err := castest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other := r.manager(key, backendtest.NewFake())
	req := r.request(1)
	r.deployed(req)
	_, err = other.Deploy(t.Context(), r.owner.Key.Hash, req)
	if p := problem.From(err); p == nil || p.Rule != "grant_claimed" || p.Mend == "" {
		t.Errorf("at another manager: %v", err)
	}
	_, err = r.m.Deploy(t.Context(), r.owner.Key.Hash, req)
	if p := problem.From(err); p == nil || p.Rule != "code_used" {
		t.Errorf("at the same one: %v", err)
	}
}

// TestLateCode: a grant that its owner withdrew, or whose time is over, starts
// nothing.
func TestLateCode(t *testing.T) {
	r := startReal(t)
	req := r.request(1)
	code, err := owners.ParseGrantCode(req.Code)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.owner.Do(t.Context(), http.MethodDelete, owners.PathGrants+"/"+code.Grant.String(), nil, nil); err != nil {
		t.Fatal(err)
	}
	_, err = r.m.Deploy(t.Context(), r.owner.Key.Hash, req)
	if p := problem.From(err); p == nil || p.Rule != "grant_ended" || len(r.fake.Started()) != 0 {
		t.Errorf("%v", err)
	}
}

// TestSecondOwnersKey: an app belongs to the key that granted it, and who may not
// deploy the session grants nothing.
func TestSecondOwnersKey(t *testing.T) {
	r := startReal(t)
	a := r.deployed(r.request(1))
	if a.Owner != r.owner.Key.Hash {
		t.Errorf("the app belongs to %s, not to who granted it", a.Owner)
	}
	stranger := r.env.Owner(t)
	_, err := stranger.Grant(t.Context(), "shop", map[ident.ServiceName]owners.GrantedService{"client-app": {Instances: 1}})
	if p := problem.From(err); p == nil || p.Kind != problem.Denied {
		t.Errorf("a stranger's grant: %v", err)
	}
	if _, err := r.m.App(stranger.Key.Hash, ident.AppRef(a.ID)); problem.KindOf(err) != problem.NotFound {
		t.Errorf("a stranger sees the app: %v", err)
	}
}

// TestKilledInstancesLeaveTheirPlace: nothing lapses within an hour here, and yet
// the replacement of an instance that was killed has its place at once.
func TestKilledInstancesLeaveTheirPlace(t *testing.T) {
	r := startReal(t)
	a := r.deployed(r.request(2))
	killed := r.grants()[0].Places["client-app"].Instances[0]
	in := r.apps(a)[0]
	r.fake.SetInstanceID(ident.AttemptID(in.ID+"-1"), killed)
	r.fake.Crash(ident.AttemptID(in.ID+"-1"), 137, false)
	eventually(t, "the replacement has a place", func() bool {
		now := r.grants()[0].Places["client-app"].Instances
		a, err := r.m.App(r.owner.Key.Hash, ident.AppRef(a.ID))
		return err == nil && a.Healthy == 2 && len(now) == 2 && !slices.Contains(now, killed)
	})
}

// TestWithdrawnWhileItRuns: the owner takes the right back; the app can't start
// again, and says what to do.
func TestWithdrawnWhileItRuns(t *testing.T) {
	r := startReal(t)
	a := r.deployed(r.request(1))
	if _, err := r.owner.Do(t.Context(), http.MethodDelete, owners.PathGrants+"/"+a.Grant.String(), nil, nil); err != nil {
		t.Fatal(err)
	}
	r.fake.Crash(ident.AttemptID(r.apps(a)[0].ID+"-1"), 1, false)
	eventually(t, "the app says who can mend it", func() bool {
		var err error
		a, err = r.m.App(r.owner.Key.Hash, ident.AppRef(a.ID))
		return err == nil && a.Problem != nil
	})
	if a.Problem.Rule != "grant_ended" || !strings.Contains(a.Problem.Mend, "cupel deploy shop") {
		t.Errorf("%v", a.Problem)
	}
}
