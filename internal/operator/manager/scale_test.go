package manager_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/backendtest"
	"cupel.dev/cupel/internal/testing/grantstest"
)

// memory is a Store without a disk.
type memory struct {
	mu     sync.Mutex
	events []manager.Event
}

func (*memory) Load(context.Context) (manager.State, error) {
	return manager.State{
		Apps: map[string]*manager.App{}, Replicas: map[string]*manager.Replica{},
		Notices: map[string]*manager.Notice{}, Codes: map[ident.Digest]*manager.UsedCode{},
	}, nil
}

func (s *memory) Apply(_ context.Context, c manager.Change) ([]manager.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(c.Events)
	for i := range out {
		out[i].Seq = uint64(len(s.events) + i + 1)
	}
	s.events = append(s.events, out...)
	return out, nil
}

func (s *memory) Events(_ context.Context, since uint64, _ manager.EventFilter, limit int) ([]manager.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := s.events[min(since, uint64(len(s.events))):]
	return slices.Clone(rest[:min(limit, len(rest))]), nil
}

func (*memory) Close() error { return nil }

// crowd is a manager that many apps are given to, over fakes.
type crowd struct {
	fake *backendtest.Fake
	cas  *grantstest.Fake
	m    *manager.Manager
	stop func()
}

func newCrowd(t testing.TB, backend func(*backendtest.Fake) manager.Backend) *crowd {
	t.Helper()
	c := &crowd{fake: backendtest.NewFake(), cas: grantstest.NewFake("cas:1", theCAS)}
	bal := &balancer{taken: map[uint16]bool{}, open: map[string]int{}}
	counter := 0
	var err error
	c.m, err = manager.New(t.Context(), manager.Config{
		Store: &memory{}, Backend: backend(c.fake), Balancer: bal, Catalog: catalog{}, Grants: c.cas.Holder(operator),
		CAS: managerapi.CASRef{Instances: "cas:1", Identity: theCAS}, PortFree: bal.free, FirstPort: 8082, Operator: operator, Now: time.Now,
		NewID: func(prefix string) string { counter++; return fmt.Sprintf("%s-%06d", prefix, counter) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.m.Run(ctx) }()
	c.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	return c
}

func plain(f *backendtest.Fake) manager.Backend { return f }

// deploy asks for apps of one instance each, all at once.
func (c *crowd) deploy(t testing.TB, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		req := managerapi.DeployRequest{Version: 1, Session: ident.SessionName(fmt.Sprintf("alice/shop-%d", i)), Runtime: "python", Instances: 1}
		req.Code = c.cas.Make(terms(req)).String()
		if _, err := c.m.Deploy(t.Context(), alice, req); err != nil {
			t.Fatal(err)
		}
	}
}

// serve waits until so many apps serve.
func (c *crowd) serve(t testing.TB, n int) {
	t.Helper()
	for range 100_000 {
		ready := 0
		for _, a := range c.m.Apps(operator) {
			if a.State == managerapi.AppReady {
				ready++
			}
		}
		if ready == n {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%d apps don't serve", n)
}

// TestManyAppsCostWhatOneCosts counts work, never time: what a plan looks at grows
// with what there is and not with its square, and one app more costs as many plans
// where there are a thousand as where there is none.
func TestManyAppsCostWhatOneCosts(t *testing.T) {
	const many = 1000
	bubble(t, func(t *testing.T) {
		alone := newCrowd(t, plain)
		defer alone.stop()
		alone.deploy(t, 0, 1)
		alone.serve(t, 1)
		_, plansAlone, visitedAlone, callsAlone := alone.m.Work()

		c := newCrowd(t, plain)
		defer c.stop()
		c.deploy(t, 0, many)
		c.serve(t, many)
		_, plans, visited, calls := c.m.Work()
		if per, most := visited/plans, 10*many*max(1, visitedAlone/plansAlone); per > most {
			t.Errorf("a plan over %d apps looks at %d apps and instances, want at most %d", many, per, most)
		}
		if calls > many*callsAlone {
			t.Errorf("%d calls for %d apps, want at most as many as %d for each", calls, many, callsAlone)
		}

		c.deploy(t, many, many+1)
		c.serve(t, many+1)
		_, again, _, more := c.m.Work()
		if again-plans > 2*plansAlone {
			t.Errorf("one app more cost %d plans, alone it cost %d", again-plans, plansAlone)
		}
		if more-calls > callsAlone {
			t.Errorf("one app more cost %d calls, alone it cost %d", more-calls, callsAlone)
		}
		t.Logf("alone: %d plans, %d looks, %d calls; %d apps: %d plans, %d looks, %d calls; one more: %d plans, %d calls",
			plansAlone, visitedAlone, callsAlone, many, plans, visited, calls, again-plans, more-calls)
	})
}

// slow is a Backend whose list waits.
type slow struct {
	*backendtest.Fake
	asked chan struct{}
	gate  chan struct{}
}

func (s *slow) List(ctx context.Context) ([]manager.InstanceStatus, error) {
	select {
	case s.asked <- struct{}{}:
		<-s.gate
	default:
	}
	return s.Fake.List(ctx)
}

// TestEventsArePlannedTogether: whatever happens during a pass is one pass more.
func TestEventsArePlannedTogether(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &slow{asked: make(chan struct{}), gate: make(chan struct{})}
		c := newCrowd(t, func(f *backendtest.Fake) manager.Backend { s.Fake = f; return s })
		defer c.stop()
		c.deploy(t, 0, 1)
		c.serve(t, 1)
		list, err := c.m.Instances(t.Context(), operator, "")
		if err != nil {
			t.Fatal(err)
		}
		id := list[len(list)-1].ID + "-1"

		s.SetHealth(ident.AttemptID(id), manager.HealthHealthy) // an event, which a pass follows
		<-s.asked
		before, _, _, _ := c.m.Work()
		for range 1000 {
			s.SetHealth(ident.AttemptID(id), manager.HealthHealthy)
			synctest.Wait()
		}
		close(s.gate)
		time.Sleep(time.Second)
		if after, _, _, _ := c.m.Work(); after-before > 2 {
			t.Errorf("%d passes for a thousand events that came during one", after-before)
		}
	})
}

// BenchmarkRollout is how long it takes until so many apps serve, on a Backend that
// takes no time.
func BenchmarkRollout(b *testing.B) {
	for _, n := range []int{1, 300, 1000} {
		b.Run(fmt.Sprintf("%d apps", n), func(b *testing.B) {
			for b.Loop() {
				c := newCrowd(b, plain)
				c.deploy(b, 0, n)
				c.serve(b, n)
				passes, _, _, _ := c.m.Work()
				b.ReportMetric(float64(passes), "passes")
				c.stop()
			}
		})
	}
}

// BenchmarkOneMore is what one app more costs where so many serve.
func BenchmarkOneMore(b *testing.B) {
	for _, n := range []int{0, 300, 1000} {
		b.Run(fmt.Sprintf("beside %d apps", n), func(b *testing.B) {
			c := newCrowd(b, plain)
			defer c.stop()
			c.deploy(b, 0, n)
			c.serve(b, n)
			for b.Loop() {
				c.deploy(b, n, n+1)
				n++
				c.serve(b, n)
			}
		})
	}
}
