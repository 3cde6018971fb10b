package manager

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
)

// BenchmarkPlan is one plan in which nothing follows, over apps of one instance.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{100, 1000, 20000} {
		b.Run(fmt.Sprintf("%d instances", n), func(b *testing.B) {
			w := settledWorld(n)
			for b.Loop() {
				if d := plan(w); !d.change.empty() || len(d.actions) > 0 {
					b.Fatalf("something follows: %+v", d)
				}
			}
		})
	}
}

// settledWorld is a world of so many apps that serve.
func settledWorld(n int) world {
	now := time.Now()
	w := world{
		now: now, limits: DefaultLimits(), observed: map[ident.AttemptID]InstanceStatus{},
		state:   State{Apps: map[string]*App{}, Replicas: map[string]*Replica{}},
		balance: balanceState{known: true}, newID: randomID,
	}
	var frontends []Frontend
	for i := range n {
		a := &App{ID: fmt.Sprintf("app-%06d", i), Name: fmt.Sprint("shop-", i), Last: 1, Rollout: Rollout{Phase: PhaseDone}}
		a.Current = &Revision{Number: 1, Instances: 1, Port: uint16(1024 + i), ContainerPort: 8080, Ungranted: true}
		in := &Replica{ID: fmt.Sprintf("i-%06d", i), App: a.ID, Role: RoleApp, Revision: 1, Attempt: 1, CreatedAt: now}
		s := InstanceStatus{
			ID: attemptID(in, 1), App: a.ID, State: StateRunning, Health: HealthHealthy,
			IP: netip.AddrFrom4([4]byte{10, 88, byte(i >> 8), byte(i)}), StartedAt: now,
		}
		w.state.Apps[a.ID], w.state.Replicas[in.ID], w.observed[s.ID] = a, in, s
		frontends = append(frontends, Frontend{App: a.ID, Port: a.Current.Port, Endpoints: []Endpoint{{Instance: in.ID, IP: s.IP, Port: 8080}}})
	}
	w.byApp, w.applied = groupByApp(w.state.Replicas), servingOf(frontends)
	return w
}
