package manager

import (
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// startsFor is how long an instance counts as one that starts, which costs the
// machine most. One that waits for something takes nobody's turn for longer.
const startsFor = 10 * time.Second

// candidate is an instance that may start once it is its turn.
type candidate struct {
	app     string // the app's id
	owner   ident.KeyHash
	rank    int // among those of the same owner
	created time.Time
	start   startAttempt
}

// mayStart asks for a replica to be started as soon as it is its turn.
func (p *planner) mayStart(a *App, r *Replica, start startAttempt) {
	if !p.busy[start.key()] {
		p.starts = append(p.starts, candidate{app: a.ID, owner: a.Owner, created: r.CreatedAt, start: start})
	}
}

// planStarts starts as many instances at once as the limits let, those of each
// owner in turn. The rest follow when one of them is up.
func (p *planner) planStarts() {
	if len(p.starts) == 0 {
		return
	}

	turns := p.starts
	if p.limits.Starts > 0 {
		turns = inTurn(p.starts)
		first := min(len(turns), max(0, p.limits.Starts-p.startsUnderWay()))
		for _, c := range turns[first:] {
			replica, _ := replicaOf(c.start.spec.ID)
			p.queued[replica] = true
		}
		turns = turns[:first]
	}

	for _, c := range turns {
		p.actions = append(p.actions, planned{app: c.app, action: c.start})
	}
}

// awaitsTurn is what there is to say of an instance that waits for its turn.
func (m *Manager) awaitsTurn() *problem.Error {
	return problem.New(problem.Unavailable, problem.RuleStarts, "it waits for its turn: others start, %d at once", m.limits.Starts).
		Fix("wait, it starts by itself; or ask the operator for more at once, where the machine can: %s", restart("--starts N"))
}

// inTurn orders candidates so that each owner's first comes before anybody's second.
func inTurn(all []candidate) []candidate {
	out := slices.Clone(all)
	slices.SortStableFunc(out, func(a, b candidate) int { return a.created.Compare(b.created) })

	had := map[ident.KeyHash]int{}
	for i := range out {
		out[i].rank = had[out[i].owner]
		had[out[i].owner]++
	}

	slices.SortStableFunc(out, func(a, b candidate) int { return a.rank - b.rank })
	return out
}

// startsUnderWay counts the instances that are starting now.
func (p *planner) startsUnderWay() int {
	n := 0
	for key := range p.busy {
		id := ident.AttemptID(key) // of those that are one
		replica, _ := replicaOf(id)
		if _, there := p.observed[id]; !there && p.state.Replicas[replica] != nil {
			n++ // Start is under way
		}
	}

	for _, s := range p.observed {
		up := s.State == StateRunning && s.Health != HealthUnknown
		age := p.now.Sub(s.CreatedAt)
		if up || s.State == StateExited || s.State == StateStopping || age < 0 || age >= startsFor {
			continue
		}
		n++
		p.wakeAt(s.CreatedAt.Add(startsFor))
	}
	return n
}
