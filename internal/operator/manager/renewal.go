package manager

import (
	"time"
)

// An instance whose app can't take a new certificate while it runs is started
// again before the old one ends, one after the other, each when all others serve
// and the CAS answers: one that is away shall be noticed by nobody.
const (
	// renewAfter is the part of a certificate's life after which an instance is
	// started again. Launchers whose apps take a new one have it at half.
	renewAfter = 2.0 / 3
	// renewAlone is the part after which nobody waits for the others any more.
	renewAlone = 9.0 / 10
	// reachedFor is how long the CAS is taken to answer after it did.
	reachedFor = 10 * time.Second
	// reachEvery is how often one that doesn't is asked.
	reachEvery = time.Minute
)

// reachResult is what became of the newest try to reach an app's CAS.
type reachResult struct {
	at  time.Time
	err error
}

// certificateOf returns when the instance's certificate ends, and at which time a
// part of its life is over; false where it has none, or one that was over when it
// came: another would be no better.
func certificateOf(s InstanceStatus) (c certificate, ok bool) {
	if s.State != StateRunning || s.CertificateUntil.IsZero() || s.CertificateSince.IsZero() {
		return certificate{}, false
	}

	life := float64(s.CertificateUntil.Sub(s.CertificateSince))
	return certificate{
		until: s.CertificateUntil,
		due:   s.CertificateSince.Add(time.Duration(life * renewAfter)),
		last:  s.CertificateSince.Add(time.Duration(life * renewAlone)),
	}, life > 0
}

// certificate is what an instance's certificate demands.
type certificate struct {
	due   time.Time // when the instance is to be started again
	last  time.Time // when that waits for no others any more
	until time.Time // when it ends
}

// planRenewal starts the next instance again whose certificate comes to its end.
func (p *planner) planRenewal(a *App) {
	if a.Rollout.active() && a.Rollout.Phase != PhaseDrain || a.Current == nil || a.Removing {
		return // a deployment renews them all
	}
	var next *Replica
	var first certificate
	serving := 0
	for _, r := range p.replicasOf(a.ID) {
		s, ok := p.newestAttempt(r)
		switch {
		case r.Role != RoleApp || r.Revision != a.Current.Number || r.Done || r.Removing:
			continue
		case r.Renewing && p.uncleared[s.ID] != "":
			continue // nobody waits for one that can't be stopped
		case r.Renewing:
			return // one after the other
		case ok && s.ready():
			serving++
		}

		if c, ok := certificateOf(s); ok && (next == nil || c.due.Before(first.due)) {
			next, first = r, c
		}
	}

	switch {
	case next == nil:
		return
	case p.now.Before(first.due):
		p.wakeAt(first.due)
		return
	case serving < a.Current.Instances && p.now.Before(first.last):
		p.wakeAt(first.last)
		return // the others first
	case serving < a.Current.Instances && serving <= 1:
		return // the others can't start: the last one that serves goes on to its end
	}
	p.renewIfReached(a, next, first.until)
}

// drainFor is how long the connections of an instance have to end that nobody is led
// to since then. Nobody drains beyond the own certificate's end, nor, where instances
// are started again for theirs, so long that the others' time runs out: they share
// what there is.
func (p *planner) drainFor(a *App, r *Replica, s InstanceStatus, since time.Time) time.Duration {
	own, ok := certificateOf(s)
	switch {
	case !ok:
		return p.limits.Drain
	case !r.Renewing && since.Before(own.until):
		return min(p.limits.Drain, own.until.Sub(since))
	case !r.Renewing: // it is late already
		return p.limits.Drain
	}

	last, sharing := own.last, time.Duration(1)
	for _, other := range p.replicasOf(a.ID) {
		s, _ := p.newestAttempt(other)
		c, ok := certificateOf(s)
		if !ok || other.ID == r.ID || other.Role != RoleApp || other.Revision != r.Revision {
			continue
		}
		if c.due.Before(own.until) && since.Before(c.last) {
			sharing++
			if c.last.Before(last) {
				last = c.last
			}
		}
	}
	return min(p.limits.Drain, max(0, last.Sub(since)/sharing))
}

// renewIfReached has the replica started again if the app's CAS, which has to let it, answered
// just now; else it is asked first.
func (p *planner) renewIfReached(a *App, r *Replica, until time.Time) {
	last, asked := p.reached[a.ID]
	again := last.at.Add(reachEvery)
	switch {
	case asked && last.err == nil && p.now.Sub(last.at) < reachedFor:
		p.editReplica(r).Renewing = true
		p.note(a, r, "instance_renewing", "its certificate ends at %s: it is started again with a new one", until.UTC().Format(time.RFC3339))
	case asked && last.err != nil && p.now.Before(again):
		p.wakeAt(again)
	default:
		p.act(reachCAS{app: a.ID, cas: a.Current.CAS, addr: a.Current.CASAddr})
	}
}

// renew stops the instance, once it is drained, and lets its next attempt start at
// once.
func (p *planner) renew(a *App, r *Replica) {
	s, there := p.newestAttempt(r)
	switch {
	case there && p.busy[string(s.ID)]:
	case there && s.State != StateExited:
		p.endWhenDrained(a, r, s)
	default:
		if there && r.Recorded < r.Attempt {
			r = p.noteEnd(a, r, s)
		}
		r = p.editReplica(r)
		if there {
			r.Attempt++
		}
		r.Renewing = false
		r.NotBefore = time.Time{}
		r.Problem = nil
	}
}
