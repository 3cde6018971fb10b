package manager_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/testing/backendtest"
	"cupel.dev/cupel/internal/testing/grantstest"
	"cupel.dev/cupel/internal/trusted/wire"
	"cupel.dev/cupel/runtimes"
)

var (
	alice    = ident.KeyHash{1}
	mallory  = ident.KeyHash{2}
	operator = ident.KeyHash{9}
	theCAS   = ident.KeyHash{0xca}
)

// balancer is a fake that remembers every Apply.
type balancer struct {
	mu      sync.Mutex
	applied [][]manager.Frontend
	taken   map[uint16]bool // by some other process
	open    map[string]int  // connections, by the place's id
	blind   error           // of Connections
	broken  error           // of Apply
}

func (b *balancer) Apply(_ context.Context, f []manager.Frontend) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil {
		return b.broken
	}
	for _, fe := range f {
		if b.taken[fe.Port] {
			return problem.New(problem.Conflict, "port_taken", "port %d is taken", fe.Port)
		}
	}
	b.applied = append(b.applied, slices.Clone(f))
	return nil
}

func (b *balancer) Connections(context.Context) (map[netip.Addr]int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	open := map[netip.Addr]int{}
	if len(b.applied) > 0 {
		for _, f := range b.applied[len(b.applied)-1] {
			for _, l := range f.Leaving {
				open[l.IP] = b.open[l.Instance]
			}
		}
	}
	return open, b.blind
}

func (b *balancer) Close() error { return nil }

func (b *balancer) now() []manager.Frontend {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.applied) == 0 {
		return nil
	}
	return b.applied[len(b.applied)-1]
}

func (b *balancer) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = err
}

func (b *balancer) take(port uint16, taken bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken[port] = taken
}

func (b *balancer) free(port uint16) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taken[port] {
		return errors.New("address already in use")
	}
	return nil
}

type catalog struct{}

func (c catalog) Runtime(ctx context.Context, name string) (managerapi.Runtime, error) {
	list, err := c.Runtimes(ctx)
	for _, r := range list {
		if r.Name == name && r.Problem == nil {
			return r, err
		}
	}
	return managerapi.Runtime{}, runtimes.NotBuilt(name, []string{"puller", "python"})
}

func (catalog) Runtimes(context.Context) ([]managerapi.Runtime, error) {
	damaged := problem.New(problem.Unavailable, "registry_damaged", "it is damaged").Fix("build it anew")
	return []managerapi.Runtime{{Name: "puller", Image: "img/puller"}, {Name: "python", Image: "img/python"}, {Name: "node", Problem: damaged}}, nil
}

// world is a manager over fakes and a real database.
type world struct {
	inTheWay func() bool // what the manager is told of the machine

	t       *testing.T
	fake    *backendtest.Fake
	backend manager.Backend // what the next start has instead of fake; nil: that
	// incidents is what the next start is told of; nil: nothing.
	incidents *manager.Incidents
	bal       *balancer
	cas       *grantstest.Fake
	path      string
	full      atomic.Bool // the disk of the store
	m         *manager.Manager
	keys      manager.KeyLimits     // that the next start has
	limits    *manager.Limits       // that too; nil: the usual ones
	memory    manager.MachineMemory // and this
	back      atomic.Int64          // by how much the clock was set back, without a monotonic one where it was
	stop      func()
	counter   int
	// launcher is the machine's, as the node would say.
	launcher ident.Digest
	// held is how the next start meets CASes; nil: as the operator does.
	held func(manager.Grants) manager.Grants
}

// disk is a Store that may be full.
type disk struct {
	manager.Store
	full *atomic.Bool
}

func (d disk) Apply(ctx context.Context, c manager.Change) ([]manager.Event, error) {
	if d.full.Load() {
		return nil, problem.New(problem.Unavailable, "disk_full", "no space left on device")
	}
	return d.Store.Apply(ctx, c)
}

func newWorld(t *testing.T, script func(manager.InstanceSpec) backendtest.Script) *world {
	w := &world{
		t: t, fake: backendtest.NewFake(), path: filepath.Join(t.TempDir(), "manager.db"),
		bal: &balancer{taken: map[uint16]bool{}, open: map[string]int{}}, cas: grantstest.NewFake("cas:1", theCAS),
	}
	w.fake.Script = script
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start begins a manager over what an earlier one left.
func (w *world) start() {
	w.t.Helper()
	db, err := managerdb.Open(w.t.Context(), w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	backend := w.backend
	if backend == nil {
		backend = w.fake
	}
	w.m, err = manager.New(w.t.Context(), manager.Config{
		Store: disk{db, &w.full}, Backend: backend, Balancer: w.bal, Catalog: catalog{}, Grants: w.grants(), Launcher: w.launcher, CAS: managerapi.CASRef{Instances: "cas:1", Identity: theCAS},
		PortFree: w.bal.free, FirstPort: 8082, Operator: operator, Keys: w.keys, Simulated: true, Now: w.now, Incidents: w.incidents, Limits: w.limits, Memory: w.memory, InTheWay: w.inTheWay,
		NewID: func(prefix string) string { w.counter++; return fmt.Sprintf("%s-%d", prefix, w.counter) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.m.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		_ = db.Close()
	})
}

func (w *world) now() time.Time {
	if back := w.back.Load(); back != 0 {
		return time.Now().Round(0).Add(-time.Duration(back))
	}
	return time.Now()
}

func (w *world) grants() manager.Grants {
	g := w.cas.Holder(operator)
	if w.held != nil {
		g = w.held(g)
	}
	return g
}

func request() managerapi.DeployRequest {
	return managerapi.DeployRequest{Version: 1, Session: "alice/shop", Runtime: "python", Instances: 3, Memory: 256 << 20, Port: 8080}
}

// terms are what a grant of alice's lets run by default: as much as the request
// wants.
func terms(req managerapi.DeployRequest) owners.ClaimReply {
	return owners.ClaimReply{
		Session: req.Session, App: cmp.Or(req.Name, managerapi.AppName(req.Session)), Maker: alice,
		Services: map[ident.ServiceName]owners.GrantedService{
			"client-app": {Instances: max(1, req.Instances)},
			"pull_repo":  {Runs: 1},
		},
	}
}

// granted is the request with the code of a grant that covers it.
func (w *world) granted(req managerapi.DeployRequest) managerapi.DeployRequest {
	req.Code = w.cas.Make(terms(req)).String()
	return req
}

func (w *world) deploy(req managerapi.DeployRequest) managerapi.App {
	w.t.Helper()
	if req.Code == "" {
		req = w.granted(req)
	}
	a, err := w.m.Deploy(w.t.Context(), alice, req)
	if err != nil {
		w.t.Fatalf("Deploy: %v", err)
	}
	return a
}

// settled waits until the app's deployment ended, in the bubble's time.
func (w *world) settled(ref string) managerapi.App {
	w.t.Helper()
	for range 10_000 {
		a, err := w.m.App(alice, ident.AppRef(ref))
		if err != nil {
			w.t.Fatalf("App: %v", err)
		}
		if a.Deployment.State != managerapi.DeploymentRunning {
			return a
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatalf("deployment never ended")
	return managerapi.App{}
}

func (w *world) instances(role string) []managerapi.Instance {
	w.t.Helper()
	all, err := w.m.Instances(w.t.Context(), operator, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(i managerapi.Instance) bool { return i.Role != role })
}

func (w *world) reasons() []string {
	w.t.Helper()
	var out []string
	err := w.m.Events(w.t.Context(), operator, manager.EventQuery{}, manager.Sink[managerapi.Event]{Waits: unheard, Emit: func(e managerapi.Event) error {
		out = append(out, e.Reason)
		return nil
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// bubble runs a test in synctest's time.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestDeploy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.deploy(request())
		if a.Name != "alice-shop" || a.Port != 8080 || a.State != managerapi.AppDeploying {
			t.Errorf("at once: %+v", a)
		}
		a = w.settled(a.ID)
		if a.State != managerapi.AppReady || a.Healthy != 3 || a.Revision != 1 {
			t.Fatalf("at the end: %+v", a)
		}
		var names []string
		for _, s := range a.Deployment.Steps {
			names = append(names, s.Name)
			if s.EndedAt.IsZero() {
				t.Errorf("step %s never ended", s.Name)
			}
		}
		if got := strings.Join(names, " "); got != "images pull start attest health switch" {
			t.Errorf("steps: %s", got)
		}
		f := w.bal.now()
		if len(f) != 1 || f[0].Port != 8080 || len(f[0].Endpoints) != 3 || f[0].Endpoints[0].Port != 8080 {
			t.Errorf("balancer: %+v", f)
		}
		specs := w.fake.Started()
		if len(specs) != 4 {
			t.Fatalf("%d starts, want a pull and three", len(specs))
		}
		pull := specs[0]
		if pull.Image != "img/puller" || pull.Port != 0 || pull.Config.String() != "alice/shop/pull_repo" ||
			pull.Binding != wire.LaunchBinding(theCAS, "alice/shop", "pull_repo") {
			t.Errorf("pull: %+v", pull)
		}
		if s := specs[1]; s.Image != "img/python" || s.Memory != 256<<20 || s.Binding != wire.LaunchBinding(theCAS, "alice/shop", "client-app") {
			t.Errorf("app: %+v", s)
		}
		// The port was ours, leading nowhere, before anything started.
		for _, f := range w.bal.applied {
			if len(f) > 0 {
				if f[0].Port != 8080 || len(f[0].Endpoints) != 0 {
					t.Errorf("the port wasn't held first: %+v", w.bal.applied)
				}
				break
			}
		}
	})
}

func TestUpdate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(request()).ID)
		old := w.instances("app")
		req := request()
		req.Port, req.Memory, req.Instances = 0, 0, 2
		a := w.deploy(req)
		if next := w.settled(a.ID); next.Port != 8080 || next.Memory != 256<<20 {
			t.Errorf("update took port %d, memory %d; want its own", next.Port, next.Memory)
		}
		a = w.settled(a.ID)
		if a.Revision != 2 || a.State != managerapi.AppReady || a.Healthy != 2 || a.Deployment.State != managerapi.DeploymentDone {
			t.Fatalf("%+v", a)
		}
		now := w.instances("app")
		if len(now) != 2 || now[0].ID == old[0].ID {
			t.Errorf("instances after update: %+v", now)
		}
		// No moment without endpoints since the first switch.
		serving := false
		for _, f := range w.bal.applied {
			if serving && (len(f) != 1 || len(f[0].Endpoints) == 0) {
				t.Errorf("a moment without endpoints: %+v", w.bal.applied)
			}
			serving = serving || len(f) == 1 && len(f[0].Endpoints) > 0
		}
	})
}

func TestFailedUpdateLeavesTheOld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bad := false
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			if s.Port == 0 {
				if bad {
					return backendtest.Script{Exit: true, Code: 65}
				}
				return backendtest.Script{Exit: true}
			}
			return backendtest.Script{}
		})
		w.settled(w.deploy(request()).ID)
		old := w.instances("app")
		bad = true
		a := w.settled(w.deploy(request()).ID)
		if a.Deployment.State != managerapi.DeploymentFailed || a.Deployment.Problem.Rule != "pull_token" || a.State != managerapi.AppReady || a.Revision != 1 {
			t.Fatalf("%+v %+v", a, a.Deployment.Problem)
		}
		if now := w.instances("app"); len(now) != 3 || now[0].ID != old[0].ID {
			t.Errorf("the old instances changed: %+v", now)
		}
		time.Sleep(time.Second) // the earlier pull is cleared away beside all that
		if n := len(w.instances("pull")); n != 1 {
			t.Errorf("%d pull jobs kept for their logs, want 1", n)
		}
	})
}

func TestCrashesAreRestartedWithBackoff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(request()).ID)
		in := w.instances("app")[0]
		w.fake.Crash(ident.AttemptID(in.ID+"-1"), 137, true)
		time.Sleep(500 * time.Millisecond)
		if n := len(w.bal.now()[0].Endpoints); n != 2 {
			t.Errorf("%d endpoints while one waits, want 2", n)
		}
		got := w.instances("app")[0]
		if got.State != "waiting" || !got.OOMKilled || got.Problem == nil || got.Problem.Rule != "out_of_memory" {
			t.Errorf("while it waits: %+v", got)
		}
		time.Sleep(2 * time.Second)
		if got := w.instances("app")[0]; got.ID != in.ID || got.State != "running" || got.Restarts != 1 {
			t.Errorf("after the back-off: %+v", got)
		}
		if !slices.Contains(w.reasons(), "instance_out_of_memory") {
			t.Errorf("events: %v", w.reasons())
		}
		// Later crashes wait longer; a settled instance is forgiven.
		w.fake.Crash(ident.AttemptID(in.ID+"-2"), 1, false)
		time.Sleep(1500 * time.Millisecond)
		if got := w.instances("app")[0]; got.State != "waiting" {
			t.Errorf("the second back-off is no longer than the first: %+v", got)
		}
		time.Sleep(2 * time.Minute)
		w.fake.Crash(ident.AttemptID(in.ID+"-3"), 1, false)
		time.Sleep(1500 * time.Millisecond)
		if got := w.instances("app")[0]; got.State != "running" || got.Restarts != 3 {
			t.Errorf("not forgiven: %+v", got)
		}
	})
}

func TestFirstDeployThatFails(t *testing.T) {
	denied := problem.New(problem.Denied, "measurement", "measurement: 12ab").Want("abc")
	for name, c := range map[string]struct {
		script backendtest.Script
		rule   string
	}{
		"refused by the CAS": {backendtest.Script{Exit: true, Code: 1, Problem: denied}, "measurement"},
		"always exits":       {backendtest.Script{Exit: true, Code: 3}, "exited"},
		"is a job":           {backendtest.Script{Exit: true}, "app_ended"},
		"never listens":      {backendtest.Script{Unhealthy: true}, "unhealthy"},
		"listens elsewhere":  {backendtest.Script{Unhealthy: true, Problem: problem.New(problem.Unavailable, "unhealthy", "the app listens on 127.0.0.1:8080")}, "unhealthy"},
		"never starts":       {backendtest.Script{StartError: problem.New(problem.Unavailable, "disk", "no space left")}, "disk"},
		"out of memory":      {backendtest.Script{Exit: true, Code: 137, OOM: true}, "out_of_memory"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
					if s.Port == 0 {
						return backendtest.Script{Exit: true}
					}
					return c.script
				})
				a := w.settled(w.deploy(request()).ID)
				if a.State != managerapi.AppFailed || a.Deployment.Problem == nil || string(a.Deployment.Problem.Rule) != c.rule {
					t.Fatalf("%+v, problem %v", a, a.Deployment.Problem)
				}
				if said := w.messages(); strings.Contains(said, c.rule+": "+c.rule) {
					t.Errorf("twice the same: %s", said)
				}
				time.Sleep(time.Second)
				for _, in := range w.instances("app") {
					if in.State != "exited" {
						t.Errorf("still there: %+v", in)
					}
				}
				if f := w.bal.now(); len(f) != 0 {
					t.Errorf("the port is still held: %+v", f)
				}
				if _, err := w.m.RemoveApp(t.Context(), alice, ident.AppRef(a.Name)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if left, _ := w.fake.List(t.Context()); len(left) != 0 {
					t.Errorf("left after rm: %+v", left)
				}
			})
		})
	}
}

func TestPortTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.bal.take(8080, true)
		_, err := w.m.Deploy(t.Context(), alice, w.granted(request()))
		if p := problem.From(err); p == nil || p.Rule != "port_taken" || p.Kind != problem.Conflict {
			t.Fatalf("Deploy: %v", err)
		}
		if len(w.m.Apps(operator)) != 0 || len(w.fake.Started()) != 0 {
			t.Errorf("something was made")
		}
		// Without a port: the next free one.
		w.bal.take(8082, true)
		req := request()
		req.Port = 0
		if a := w.settled(w.deploy(req).ID); a.Port != 8083 {
			t.Errorf("port %d, want 8083", a.Port)
		}
		req.Session, req.Port = "alice/other", 8083
		if _, err := w.m.Deploy(t.Context(), alice, w.granted(req)); problem.From(err).Rule != "port_taken" {
			t.Errorf("another app's port: %v", err)
		}
		// Somebody takes the port between the check and the balancer.
		req.Port = 9000
		a := w.deploy(req)
		w.bal.take(9000, true)
		if a = w.settled(a.ID); a.Deployment.Problem == nil || a.Deployment.Problem.Rule != "port_taken" {
			t.Errorf("%+v", a.Deployment)
		}
	})
}

// TestPortTakenAtTheStart: while nothing ran another program took an app's port. Its
// users reach that one, so it is told, once, and once that it is over.
func TestPortTakenAtTheStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		if taken := w.m.TakenPorts(); len(taken) != 0 {
			t.Errorf("taken: %+v", taken)
		}
		w.stop()
		w.bal.take(a.Port, true)
		w.start()
		if taken := w.m.TakenPorts(); len(taken) != 1 || taken[0].ID != a.ID || taken[0].Problem.Rule != "port_taken" {
			t.Errorf("at the start: %+v", taken)
		}
		time.Sleep(time.Minute)
		if a = w.settled(a.ID); a.Problem == nil || a.Problem.Rule != "port_taken" {
			t.Errorf("shown: %+v", a.Problem)
		}
		w.bal.take(a.Port, false)
		time.Sleep(time.Minute)
		if a = w.settled(a.ID); a.Problem != nil {
			t.Errorf("shown when it is over: %+v", a.Problem)
		}
		var told []string
		for _, reason := range w.reasons() {
			if strings.HasPrefix(reason, "port_") {
				told = append(told, reason)
			}
		}
		if want := []string{"port_taken", "port_served"}; !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}

// TestOthersIDsAreNone: an id of another key's app or instance is answered as one that
// there never was, whatever is asked of it; so is an app's name in place of an instance's id.
func TestOthersIDsAreNone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		in := w.instances("app")[0].ID
		never := func() error { return nil }
		for what, ask := range map[string]func(id string) error{
			"app":             func(id string) error { _, err := w.m.App(mallory, ident.AppRef(id)); return err },
			"rm --app":        func(id string) error { _, err := w.m.RemoveApp(t.Context(), mallory, ident.AppRef(id)); return err },
			"app's instances": func(id string) error { _, err := w.m.Instances(t.Context(), mallory, ident.AppRef(id)); return err },
			"rm": func(id string) error {
				_, err := w.m.RemoveInstance(t.Context(), mallory, ident.InstanceRef(id))
				return err
			},
			"logs": func(id string) error {
				return w.m.Logs(t.Context(), mallory, manager.LogQuery{Instance: ident.InstanceRef(id), LogOptions: manager.LogOptions{Tail: -1}}, manager.Sink[managerapi.LogLine]{Waits: never, Emit: func(managerapi.LogLine) error { return nil }})
			},
			"events": func(id string) error {
				return w.m.Events(t.Context(), mallory, manager.EventQuery{App: ident.AppRef(id)}, manager.Sink[managerapi.Event]{Waits: never, Emit: func(managerapi.Event) error { return nil }})
			},
		} {
			none := "x-9"
			want := ask(none)
			for _, id := range []string{a.ID, in} {
				if got := ask(id); want == nil || got == nil || strings.ReplaceAll(got.Error(), id, none) != want.Error() {
					t.Errorf("%s of %s: %v, of none: %v", what, id, got, want)
				}
			}
		}
		if _, err := w.m.RemoveInstance(t.Context(), mallory, ident.InstanceRef(a.Name)); err == nil || strings.Contains(err.Error(), "an app's name") {
			t.Errorf("of another's app: %v", err)
		}
		if _, err := w.m.RemoveInstance(t.Context(), alice, ident.InstanceRef(a.Name)); err == nil || !strings.Contains(err.Error(), "that is an app's name: 'cupel rm --app "+a.Name+"'") {
			t.Errorf("of one's own: %v", err)
		}
	})
}

func TestRemoveInstance(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		gone := w.instances("app")[1]
		if _, err := w.m.RemoveInstance(t.Context(), mallory, ident.InstanceRef(gone.ID)); problem.KindOf(err) != problem.NotFound {
			t.Errorf("a stranger removed it: %v", err)
		}
		r, err := w.m.RemoveInstance(t.Context(), alice, ident.InstanceRef(gone.ID))
		if err != nil || r.Instances != 2 {
			t.Fatalf("%+v, %v", r, err)
		}
		time.Sleep(time.Second)
		a, _ = w.m.App(alice, ident.AppRef(a.ID))
		if a.Instances != 2 || a.Healthy != 2 || a.State != managerapi.AppReady || len(w.bal.now()[0].Endpoints) != 2 || len(w.instances("app")) != 2 {
			t.Errorf("%+v", a)
		}
		if _, err := w.m.RemoveInstance(t.Context(), alice, ident.InstanceRef(a.Name)); !strings.Contains(err.Error(), "rm --app") {
			t.Errorf("an app's name: %v", err)
		}
	})
}

func TestOwners(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		if _, err := w.m.App(mallory, ident.AppRef(a.Name)); problem.KindOf(err) != problem.Denied {
			t.Errorf("App: %v", err)
		}
		if _, err := w.m.RemoveApp(t.Context(), mallory, ident.AppRef(a.Name)); problem.KindOf(err) != problem.Denied {
			t.Errorf("RemoveApp: %v", err)
		}
		if len(w.m.Apps(mallory)) != 0 || len(w.m.Apps(operator)) != 1 {
			t.Errorf("lists show too much or too little")
		}
		n := 0
		_ = w.m.Events(t.Context(), mallory, manager.EventQuery{}, manager.Sink[managerapi.Event]{Waits: unheard, Emit: func(managerapi.Event) error { n++; return nil }})
		if n != 0 {
			t.Errorf("a stranger sees %d events", n)
		}
		// A stranger's app of the same session is another app, under the same name.
		req := request()
		req.Port = 0
		theirs := terms(req)
		theirs.Maker = mallory
		req.Code = w.cas.Make(theirs).String()
		b, err := w.m.Deploy(t.Context(), mallory, req)
		if err != nil || b.Name != a.Name || b.ID == a.ID {
			t.Errorf("%+v, %v", b, err)
		}
	})
}

// TestAppsOfOneSession: without a name the oldest is updated, always.
func TestAppsOfOneSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		first := w.settled(w.deploy(request()).ID)
		for _, name := range []string{"a", "z"} {
			time.Sleep(time.Second)
			req := request()
			req.Name, req.Port = name, 0
			if a := w.settled(w.deploy(req).ID); a.ID == first.ID || a.Name != name {
				t.Errorf("--name %s is %s (%s)", name, a.Name, a.ID)
			}
		}
		for range 8 { // the order of a map
			if a := w.settled(w.deploy(request()).ID); a.ID != first.ID {
				t.Errorf("without a name it is %s", a.Name)
			}
		}
	})
}

func TestOrphansAreRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		_, _ = w.fake.EnsureImage(t.Context(), "img/python")
		if err := w.fake.Start(t.Context(), manager.InstanceSpec{ID: "i-lost-1", Image: "img/python", Port: 80}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if left, _ := w.fake.List(t.Context()); len(left) != 0 {
			t.Errorf("left: %+v", left)
		}
	})
}

func TestBadRequests(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		for rule, change := range map[string]func(*managerapi.DeployRequest){
			"version":   func(r *managerapi.DeployRequest) { r.Version = 2 },
			"session":   func(r *managerapi.DeployRequest) { r.Session = "../x" },
			"instances": func(r *managerapi.DeployRequest) { r.Instances = -1 },
			"memory":    func(r *managerapi.DeployRequest) { r.Memory = 1 },
			"runtime":   func(r *managerapi.DeployRequest) { r.Runtime = "cobol" },
			"app_name":  func(r *managerapi.DeployRequest) { r.Name = "No Way" },
			"service":   func(r *managerapi.DeployRequest) { r.Service = "a/b" },
		} {
			req := request()
			change(&req)
			_, err := w.m.Deploy(t.Context(), alice, w.granted(req))
			if p := problem.From(err); string(p.Rule) != rule || p.Kind == problem.Internal {
				t.Errorf("%s: %v", rule, err)
			}
		}
	})
}

func TestLogsOverRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(request()).ID)
		in := w.instances("app")[0]
		var got []string
		done := make(chan error)
		go func() {
			done <- w.m.Logs(t.Context(), alice, manager.LogQuery{Instance: ident.InstanceRef(in.ID), LogOptions: manager.LogOptions{Follow: true, Tail: -1}}, manager.Sink[managerapi.LogLine]{Waits: unheard, Emit: func(l managerapi.LogLine) error {
				got = append(got, l.Line)
				return nil
			}})
		}()
		time.Sleep(time.Second)
		w.fake.Crash(ident.AttemptID(in.ID+"-1"), 1, false)
		time.Sleep(5 * time.Second)
		if _, err := w.m.RemoveInstance(t.Context(), alice, ident.InstanceRef(in.ID)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if s := strings.Join(got, " "); s != "started exited started exited" {
			t.Errorf("followed %q", s)
		}
	})
}
