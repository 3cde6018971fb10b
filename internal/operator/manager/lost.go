package manager

import (
	"context"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// memberID is the id by which the CAS knows one attempt of an instance. The manager keeps
// it too: where a machine has lost all that it wrote down about the instance, nobody
// else could tell the CAS that it is no more.
type memberID struct {
	Attempt int              `json:"attempt"`
	ID      ident.InstanceID `json:"id"`
}

// learnMembers keeps the ids under which the CAS knows instances. It is a change of its own: a
// disk that has no room for it holds up no step. Callers hold mu.
func (m *Manager) learnMembers(ctx context.Context, observed map[ident.AttemptID]InstanceStatus) {
	var c Change
	for _, r := range m.state.Replicas {
		s := observed[attemptID(r, r.Attempt)]
		now := memberID{r.Attempt, s.InstanceID}
		if s.InstanceID.IsZero() || s.State == StateExited || r.Member == now {
			continue
		}

		known := *r
		known.Member = now
		c.Replicas = append(c.Replicas, &known)
	}

	if c.empty() {
		return
	}
	if err := m.commit(ctx, c); err != nil {
		m.cfg.Log.WarnContext(ctx, "the ids that the CAS gave instances are not kept yet", "error", err)
	}
}

// addLost completes what the Backend has by the instances that it had and doesn't know
// any more, though nobody removed them: they have ended. Those that have something under
// way are left out. Callers hold mu.
func (m *Manager) addLost(observed map[ident.AttemptID]InstanceStatus, busy map[string]bool) {
	for _, r := range m.state.Replicas {
		if r.Member.Attempt != r.Attempt || r.Recorded >= r.Attempt {
			continue
		}

		id := attemptID(r, r.Attempt)
		if _, there := observed[id]; there || busy[string(id)] || m.busy[string(id)] {
			continue
		}
		observed[id] = InstanceStatus{
			ID:         id,
			App:        r.App,
			State:      StateExited,
			InstanceID: r.Member.ID,
			ExitCode:   lostCode,
			ExitedAt:   m.cfg.Now(),
			Problem:    lostProblem(r),
		}
	}
}

// lostCode is the exit code of an instance whose own nobody knows.
const lostCode = 255

// lostProblem says what became of an instance that the machine lost.
func lostProblem(r *Replica) *problem.Error {
	what := "the instance"
	if r.Role == RolePull {
		what = "the deployment's pull"
	}
	return problem.New(problem.Unavailable, ruleInstanceLost, "the machine has lost what it wrote down about %s, which counts as ended", what).
		Fix("look at the machine's disk (dmesg), and at the event record_damaged")
}
