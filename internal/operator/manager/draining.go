package manager

import (
	"fmt"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// An instance that others replace, or that somebody removed, is stopped when
// nobody is led to it any more and the connections that it had have ended, or had
// the time of Limits.Drain for it: less where a certificate ends before.
const (
	// lookAgain lies between two looks at the connections of instances that leave,
	// at first and where the last found none; one that leaves for long is looked at
	// more and more rarely.
	lookAgain = 200 * time.Millisecond
	// lookRarely is what lies between two looks at the most.
	lookRarely = 64 * lookAgain
	// quietLooks is how many looks in a row have to find none.
	quietLooks = 2
	// ledFor is how much longer an instance is waited for that the balancer can't
	// be kept from leading to.
	ledFor = 10 * time.Second
)

// drainee is what is known of an instance that is to be stopped.
type drainee struct {
	since  time.Time // when that was decided
	looked time.Time // when its connections were counted last
	open   int       // how many there were
	quiet  int       // looks in a row that found none
}

// endWhenDrained stops an instance that is to make room, once it is drained.
func (p *planner) endWhenDrained(a *App, r *Replica, s InstanceStatus) {
	if p.busy[string(s.ID)] || !a.Removing && !p.isDrained(a, r, s) {
		return
	}
	p.act(stopAttempt{s.ID})
}

// isDrained says that nobody is led to the instance any more and that its
// connections have ended, or had their time.
func (p *planner) isDrained(a *App, r *Replica, s InstanceStatus) bool {
	if r.Role != RoleApp || s.State != StateRunning || !s.IP.IsValid() {
		return true // nobody ever was led to it, or it ends already
	}
	p.leaving[s.ID] = true
	d, known := p.drains[s.ID]
	if !known {
		d.since = p.now
	}

	most := p.drainFor(a, r, s, d.since)
	over := d.since.Add(most)
	if p.leadsTo(r) { // the balancer's next outcome brings us here again
		over = over.Add(ledFor)
		p.wakeAt(over)
		return !p.now.Before(over)
	}

	switch next := d.nextLook(); {
	case d.quiet >= quietLooks:
		return true
	case !p.now.Before(over):
		if d.open > 0 {
			p.warn(a, r, "connections_cut", "%s still open %s after nobody was led to it any more: it is stopped all the same (%s)", connections(d.open), problem.Duration(most.Round(time.Second)), p.moreTime(most))
		}
		return true
	case p.now.Before(next):
		p.wakeAt(next)
	default:
		p.toCount[s.ID] = s.IP
	}
	p.wakeAt(over)
	return false
}

// moreTime says what would give connections more time than they had.
func (p *planner) moreTime(had time.Duration) string {
	if had < p.limits.Drain {
		return "certificates that end leave no more time"
	}
	return "cupel up --drain gives more time"
}

// nextLook is when the instance's connections are counted again: after a tenth of the
// time for which it leaves, at the most, and together with those of others.
func (d drainee) nextLook() time.Time {
	gap := lookAgain
	for d.quiet == 0 && gap < lookRarely && 20*gap < d.looked.Sub(d.since) {
		gap *= 2
	}

	next := d.looked.Add(gap)
	if gap == lookAgain {
		return next
	}
	return next.Add(next.Truncate(gap).Sub(next)) // which keeps the monotonic clock
}

func connections(n int) string {
	if n == 1 {
		return "1 connection was"
	}
	return fmt.Sprintf("%d connections were", n)
}

// planCounts counts connections where an instance waits for it.
func (p *planner) planCounts() {
	if len(p.toCount) > 0 {
		p.act(&countConnections{of: p.toCount})
	}
}

// settleCounts takes note of what was counted. Callers hold mu.
func (m *Manager) settleCounts(c *countConnections, err error, now time.Time) {
	for id, ip := range c.of {
		d, ok := m.drains[id]
		if !ok {
			continue // it ended meanwhile
		}

		d.looked = now
		d.quiet++
		if err == nil {
			d.open = c.open[ip]
		}
		if err != nil || d.open > 0 {
			d.quiet = 0
		}
		m.drains[id] = d
	}
}

// noteLeaving keeps track of which instances are to be stopped, and since when.
// Callers hold mu.
func (m *Manager) noteLeaving(leaving map[ident.AttemptID]bool, now time.Time) {
	for id := range leaving {
		if _, known := m.drains[id]; !known {
			m.drains[id] = drainee{since: now}
		}
	}

	for id := range m.drains {
		if !leaving[id] {
			delete(m.drains, id)
		}
	}
}
