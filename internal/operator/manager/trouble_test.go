package manager

import (
	"net/netip"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// TestWhatADeploymentWaitsFor: a person reads what an instance waits for, and nothing
// that it says while it is ending: that is judged with its exit, and may be no reason
// to try again.
func TestWhatADeploymentWaitsFor(t *testing.T) {
	in := &Replica{ID: "i", Attempt: 1}
	why := problem.New(problem.Unavailable, "x", "y")
	for name, c := range map[string]struct {
		status InstanceStatus
		shown  bool
	}{
		"waits for a lease":          {InstanceStatus{State: StateStarting, Phase: "attesting", Problem: why}, true},
		"a pull that ended":          {InstanceStatus{State: StateStarting, Phase: "exited", Problem: why}, false},
		"refused":                    {InstanceStatus{State: StateStarting, Phase: "refused", Problem: why}, false},
		"listens elsewhere":          {InstanceStatus{State: StateRunning, Phase: "running", Problem: why}, true},
		"healthy":                    {InstanceStatus{State: StateRunning, Phase: "running", Health: HealthHealthy, IP: netip.IPv4Unspecified(), Problem: why}, false},
		"runs, and is not looked at": {InstanceStatus{State: StateRunning, Phase: "running"}, false},
	} {
		p := &planner{world: world{observed: map[ident.AttemptID]InstanceStatus{attemptID(in, 1): c.status}}}
		if got := p.obstacle(in); (got != nil) != c.shown {
			t.Errorf("%s: %v", name, got)
		}
	}
}
