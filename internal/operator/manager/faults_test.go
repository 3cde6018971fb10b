package manager_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/testing/backendtest"
)

func TestRegistryDown(t *testing.T) {
	down := problem.New(problem.Unavailable, "registry", "connection refused").Fix("start it")
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.fake.SetMissing("img/python", down)
		a := w.deploy(request())
		time.Sleep(500 * time.Millisecond)
		a, _ = w.m.App(alice, ident.AppRef(a.ID))
		if a.Deployment.State != managerapi.DeploymentRunning || a.Deployment.Waiting == nil || a.Deployment.Waiting.Rule != "registry" {
			t.Errorf("while it is down: %+v", a.Deployment)
		}
		if len(w.fake.Started()) != 0 {
			t.Errorf("something was started without its image")
		}
		w.fake.SetMissing("img/python", nil)
		if a = w.settled(a.ID); a.State != managerapi.AppReady {
			t.Errorf("after it is back: %+v", a.Deployment)
		}
	})
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.fake.SetMissing("img/python", down)
		a := w.settled(w.deploy(request()).ID)
		if a.Deployment.Problem == nil || a.Deployment.Problem.Rule != "registry" || len(w.bal.now()) != 0 && a.State != managerapi.AppFailed {
			t.Errorf("it stays down: %+v", a.Deployment)
		}
		// A new request tries again at once.
		w.fake.SetMissing("img/python", nil)
		if a = w.settled(w.deploy(request()).ID); a.State != managerapi.AppReady {
			t.Errorf("deployed again: %+v", a.Deployment)
		}
	})
}

// TestImageLost: an app whose image was lost while nobody looked says what its instances
// wait for, and an event does.
func TestImageLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.incidents = &manager.Incidents{}
		w.stop()
		w.start()
		a := w.settled(w.deploy(request()).ID)
		w.stop()
		w.fake.SetMissing("img/python", problem.New(problem.Unavailable, "image_fetch", "the snapshot is gone").Fix("see its disk"))
		list, _ := w.fake.List(t.Context())
		for _, in := range list {
			w.fake.Lose(in.ID)
		}
		w.start()
		time.Sleep(time.Minute)
		for _, in := range w.instances("app") {
			if in.State != "waiting" || in.Problem == nil || in.Problem.Rule != "image_fetch" {
				t.Errorf("%+v", in)
			}
		}
		if n := strings.Count(strings.Join(w.reasons(), " "), "image_fetch"); n != 1 {
			t.Errorf("%d events: %q", n, w.reasons())
		}
		w.fake.SetMissing("img/python", nil)
		time.Sleep(5 * time.Minute)
		if a, _ = w.m.App(alice, ident.AppRef(a.ID)); a.Healthy != a.Instances {
			t.Errorf("after it is back: %+v", a)
		}
	})
}

// TestWaitingInstance: a deployment says what its instances wait for.
func TestWaitingInstance(t *testing.T) {
	away := problem.New(problem.Unavailable, "cas_unreachable", "connection refused")
	for _, pull := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
				if pull == (s.Port == 0) {
					return backendtest.Script{Hang: true, Problem: away}
				}
				return backendtest.Script{Exit: s.Port == 0}
			})
			a := w.deploy(request())
			time.Sleep(time.Second)
			a, _ = w.m.App(alice, ident.AppRef(a.ID))
			if a.Deployment.State != managerapi.DeploymentRunning || a.Deployment.Waiting == nil || a.Deployment.Waiting.Rule != "cas_unreachable" {
				t.Errorf("pull %v: %+v", pull, a.Deployment)
			}
		})
	}
}

// TestFullDisk has the store refuse every write for a while: nothing is done
// that isn't written down, and all goes on when there is room.
func TestFullDisk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		w.full.Store(true)
		if _, err := w.m.Deploy(t.Context(), alice, w.granted(request())); err == nil || problem.From(err).Rule != "disk_full" {
			t.Errorf("Deploy: %v", err)
		}
		in := w.instances("app")[0]
		w.fake.Crash(ident.AttemptID(in.ID+"-1"), 1, false)
		time.Sleep(10 * time.Second)
		if n := len(w.fake.Started()); n != 4 {
			t.Errorf("%d starts, want 4: an attempt that nobody wrote down was begun", n)
		}
		if a, _ = w.m.App(alice, ident.AppRef(a.ID)); a.State != managerapi.AppDegraded || a.Healthy != 2 {
			t.Errorf("meanwhile: %+v", a)
		}
		w.full.Store(false)
		time.Sleep(10 * time.Second)
		if a, _ = w.m.App(alice, ident.AppRef(a.ID)); a.State != managerapi.AppReady || a.Revision != 1 {
			t.Errorf("with room again: %+v", a)
		}
	})
}

// TestFailedWriteHoldsUpNobodyElse: where the end of one app's instance can't be
// written down, other apps' steps are taken all the same, and the balancer leads
// nobody to what ended.
func TestFailedWriteHoldsUpNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		one := w.settled(w.deploy(request()).ID)
		req := request()
		req.Name, req.Port = "other", 9090
		other := w.settled(w.deploy(req).ID)
		place := func(app string) string {
			for _, in := range w.instances("app") {
				if in.App == app {
					return in.ID
				}
			}
			t.Fatalf("no instance of %s", app)
			return ""
		}
		theirs, ours := place(other.Name), place(one.Name)
		w.fake.Crash(ident.AttemptID(theirs+"-1"), 1, false)
		time.Sleep(100 * time.Millisecond) // its end is written, and its next attempt waits
		w.full.Store(true)
		w.fake.Crash(ident.AttemptID(ours+"-1"), 1, false)
		time.Sleep(10 * time.Second)

		var started []string
		for _, s := range w.fake.Started()[8:] {
			started = append(started, string(s.ID))
		}
		if want := []string{theirs + "-2"}; !slices.Equal(started, want) {
			t.Errorf("started %q, want %q", started, want)
		}
		for _, f := range w.bal.now() {
			want := map[string]int{one.ID: 2, other.ID: 3}[f.App]
			for _, e := range f.Endpoints {
				if e.Instance == ours {
					t.Errorf("the balancer leads to %s, which ended", ours)
				}
			}
			if len(f.Endpoints) != want {
				t.Errorf("port %d has %d endpoints, want %d", f.Port, len(f.Endpoints), want)
			}
		}
		w.full.Store(false)
		time.Sleep(10 * time.Second)
		for _, id := range []string{one.ID, other.ID} {
			if a, _ := w.m.App(alice, ident.AppRef(id)); a.State != managerapi.AppReady {
				t.Errorf("with room again: %+v", a)
			}
		}
	})
}

// failingStop is a Backend that can't end an instance for a while.
type failingStop struct {
	manager.Backend
	failing atomic.Bool
}

func (b *failingStop) Stop(ctx context.Context, id ident.AttemptID, grace time.Duration) error {
	if b.failing.Load() {
		return problem.New(problem.Unavailable, "containerd_hangs", "containerd did not answer within 30s").Fix("kill it: cupeld starts it again")
	}
	return b.Backend.Stop(ctx, id, grace)
}

// TestUnclearedInstanceIsTold: an instance that can't be removed is an event, once,
// which says what to do.
func TestUnclearedInstanceIsTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.stop()
		b := &failingStop{Backend: w.fake}
		w.backend = b
		w.start()
		w.settled(w.deploy(request()).ID)
		in := w.instances("app")[0]
		b.failing.Store(true)
		if _, err := w.m.RemoveInstance(t.Context(), alice, ident.InstanceRef(in.ID)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		const want = "containerd_hangs: containerd did not answer within 30s; kill it: cupeld starts it again; it is tried again"
		if m := w.messages(); strings.Count(m, "instance_not_cleared "+in.ID+" "+want) != 1 {
			t.Errorf("want once %q\n%s", want, m)
		}
		b.failing.Store(false)
		time.Sleep(10 * time.Second)
		if list, _ := w.fake.List(t.Context()); len(list) != 3 {
			t.Errorf("it is still there: %+v", list)
		}
	})
}

// TestIncidents: what the machine's parts tell becomes events, also what was told
// before there was a manager and while the disk was full. An instance's is its
// owner's too.
func TestIncidents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(request()).ID)
		in := w.instances("app")[0]
		w.stop()
		w.incidents = &manager.Incidents{}
		w.incidents.Tell(manager.Incident{Reason: "record_damaged", Message: "early", Warning: true})
		w.start()
		w.full.Store(true)
		w.incidents.Tell(manager.Incident{Reason: "log_stands_still", Message: "while the disk is full", Instance: ident.AttemptID(in.ID + "-1")})
		time.Sleep(5 * time.Second)
		w.full.Store(false)
		time.Sleep(5 * time.Second)

		for _, c := range []struct {
			who  ident.KeyHash
			want []string
		}{{operator, []string{"early", "while the disk is full"}}, {alice, []string{"while the disk is full"}}} {
			var got []string
			err := w.m.Events(t.Context(), c.who, manager.EventQuery{}, manager.Sink[managerapi.Event]{Waits: unheard, Emit: func(e managerapi.Event) error {
				if e.Reason == "record_damaged" || e.Reason == "log_stands_still" && e.Instance == in.ID {
					got = append(got, e.Message)
				}
				return nil
			}})
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%v finds %q, %v; want %q", c.who.Short(), got, err, c.want)
			}
		}
	})
}

// slowList is a Backend whose list of instances is old when it arrives.
type slowList struct{ manager.Backend }

func (b slowList) List(ctx context.Context) ([]manager.InstanceStatus, error) {
	list, err := b.Backend.List(ctx)
	time.Sleep(3 * time.Second)
	return list, err
}

// TestOlderListCondemnsNobody: what was started, ended or removed since the Backend
// was asked for its list is neither started twice nor taken for an orphan.
func TestOlderListCondemnsNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.stop()
		w.backend = slowList{w.fake}
		w.start()
		for range 2 { // an update too
			a := w.settled(w.deploy(request()).ID)
			if a.State != managerapi.AppReady {
				t.Fatalf("%+v", a.Deployment)
			}
			time.Sleep(time.Minute)
		}
		if n := len(w.fake.Started()); n != 8 {
			t.Errorf("%d starts, want 8: of two pulls and twice three instances", n)
		}
		for _, in := range w.instances("app") {
			if in.Restarts != 0 || in.State != "running" {
				t.Errorf("%+v", in)
			}
		}
	})
}

// TestSecondDeployReplacesTheFirst asks again before the first is done.
func TestSecondDeployReplacesTheFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
			return backendtest.Script{Exit: s.Port == 0, Delay: 3 * time.Second}
		})
		w.deploy(request())
		time.Sleep(4 * time.Second)
		req := request()
		req.Instances = 2
		a := w.settled(w.deploy(req).ID)
		if a.Revision != 2 || a.Healthy != 2 {
			t.Errorf("%+v", a)
		}
		time.Sleep(time.Second)
		if left, _ := w.fake.List(t.Context()); len(left) != 3 {
			t.Errorf("%d instances are left, want 2 and the pull: %+v", len(left), left)
		}
	})
}

// TestKilledManager stops the loop at every half second of a slow deployment;
// the next manager finishes it with what is there.
func TestKilledManager(t *testing.T) {
	for at := range 12 {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, func(s manager.InstanceSpec) backendtest.Script {
					return backendtest.Script{Exit: s.Port == 0, Delay: 2 * time.Second}
				})
				a := w.deploy(request())
				time.Sleep(time.Duration(at) * 500 * time.Millisecond)
				w.stop()
				w.start()
				if a = w.settled(a.ID); a.State != managerapi.AppReady || a.Healthy != 3 {
					t.Errorf("%+v", a)
				}
				if n := len(w.fake.Started()); n != 4 {
					t.Errorf("%d starts, want 4: nothing twice", n)
				}
			})
		})
	}
}

func TestSuspend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.settled(w.deploy(request()).ID)
		w.stop()
		db, err := managerdb.Open(t.Context(), w.path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := manager.New(t.Context(), manager.Config{Store: db, Backend: w.fake, Balancer: w.bal, Catalog: catalog{}, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Suspend(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = db.Close()
		if left, _ := w.fake.List(t.Context()); len(left) != 0 {
			t.Errorf("left: %+v", left)
		}
		if f := w.bal.now(); len(f) != 0 {
			t.Errorf("ports: %+v", f)
		}
		w.start()
		time.Sleep(5 * time.Second)
		if a, _ = w.m.App(alice, ident.AppRef(a.ID)); a.State != managerapi.AppReady || a.Revision != 1 {
			t.Errorf("after the next up: %+v", a)
		}
		for _, in := range w.instances("app") {
			if in.Restarts != 0 {
				t.Errorf("a stop that was asked for counts as a failure: %+v", in)
			}
		}
	})
}

// TestSuspendOnAFullDisk: apps end in order, with their grace, also where nothing
// can be written down any more.
func TestSuspendOnAFullDisk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(w.writing()).ID)
		w.full.Store(true)
		if err := w.suspend(); err == nil || problem.From(err).Rule != "disk_full" {
			t.Errorf("Suspend: %v", err)
		}
		if left, _ := w.fake.List(t.Context()); len(left) != 0 {
			t.Errorf("left: %+v", left)
		}
	})
}

// TestSuspendTellsWhatWasLost: who stopped the machine in the middle finds out of
// the events what was not kept.
func TestSuspendTellsWhatWasLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(w.writing()).ID)
		in := w.instances("app")[0]
		w.fake.SetLastWord(ident.AttemptID(in.ID+"-1"), problem.New(problem.Unavailable, "not_committed", "killed at down"))
		if err := w.suspend(); err != nil {
			t.Fatal(err)
		}
		w.start()
		if m := w.messages(); !strings.Contains(m, "instance_not_committed "+in.ID+" killed at down") {
			t.Errorf("events:\n%s", m)
		}
	})
}

// TestSuspendEndsWhatFailed: after down and up, nothing of the attempts before is said of
// the new one, which waits for nothing either.
func TestSuspendEndsWhatFailed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.settled(w.deploy(request()).ID)
		id := w.instances("app")[0].ID
		w.fake.Crash(ident.AttemptID(id+"-1"), 3, false)
		synctest.Wait()
		find := func() managerapi.Instance {
			list := w.instances("app")
			return list[slices.IndexFunc(list, func(in managerapi.Instance) bool { return in.ID == id })]
		}
		if in := find(); in.ExitCode != 3 || in.Problem == nil || in.NextStart.IsZero() {
			t.Fatalf("it did not fail: %+v", in)
		}
		if err := w.suspend(); err != nil {
			t.Fatal(err)
		}
		w.start()
		if in := find(); in.ExitCode != 0 || in.Problem != nil || in.NextStart.After(time.Now()) {
			t.Errorf("after down and up: %s, code %d, %v, next start %s", in.State, in.ExitCode, in.Problem, in.NextStart)
		}
	})
}

// suspend ends the manager and stops what runs, as `cupel down` does.
func (w *world) suspend() error {
	w.t.Helper()
	w.stop()
	db, err := managerdb.Open(w.t.Context(), w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	m, err := manager.New(w.t.Context(), manager.Config{Store: disk{Store: db, full: &w.full}, Backend: w.fake, Balancer: w.bal, Catalog: catalog{}, Now: time.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	return m.Suspend(w.t.Context())
}
