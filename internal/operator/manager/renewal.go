package manager

import (
	"time"

	"cupel.dev/cupel/internal/trusted/ident"
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

// HeldCAS is the CAS of an app, to be asked whether it is there.
type HeldCAS struct {
	App     string
	CAS     ident.KeyHash
	CASAddr string
}

// reach is what became of the newest try to reach an app's CAS.
type reach struct {
	at  time.Time
	err error
}

// planRenewal starts the next instance again whose certificate comes to its end.
func (p *planner) planRenewal(a *App) {
	if a.Rollout.active() || a.Current == nil || a.Removing {
		return // a deployment renews them all
	}
	var next *Instance
	var until, due, last time.Time
	serving := 0
	for _, in := range p.of(a.ID) {
		s, ok := p.seen(in)
		switch {
		case in.Role != RoleApp || in.Revision != a.Current.Number || in.Done || in.Removing:
			continue
		case in.Renewing:
			return // one after the other
		case ok && s.ready():
			serving++
		}
		if !ok || s.State != StateRunning || s.CertificateUntil.IsZero() || s.CertificateSince.IsZero() {
			continue
		}
		life := float64(s.CertificateUntil.Sub(s.CertificateSince))
		if life <= 0 { // it came like that: another would be no better
			continue
		}
		if at := s.CertificateSince.Add(time.Duration(life * renewAfter)); next == nil || at.Before(due) {
			next, until, due = in, s.CertificateUntil, at
			last = s.CertificateSince.Add(time.Duration(life * renewAlone))
		}
	}

	switch {
	case next == nil:
		return
	case p.now.Before(due):
		p.wakeAt(due)
		return
	case serving < a.Current.Instances && p.now.Before(last):
		p.wakeAt(last)
		return // the others first
	case serving < a.Current.Instances && serving <= 1:
		return // the others can't start: the last one that serves goes on to its end
	}
	p.renewIfReached(a, next, until)
}

func (p *planner) renewIfReached(a *App, in *Instance, until time.Time) {
	last, asked := p.reached[a.ID]
	again := last.at.Add(reachEvery)
	switch {
	case asked && last.err == nil && p.now.Sub(last.at) < reachedFor:
		p.editInstance(in).Renewing = true
		p.event(a, in, false, "instance_renewing", "its certificate ends at %s: it is started again with a new one", until.UTC().Format(time.RFC3339))
	case asked && last.err != nil && p.now.Before(again):
		p.wakeAt(again)
	default:
		p.act(action{key: "reach:" + a.ID, reach: &HeldCAS{App: a.ID, CAS: a.Current.CAS, CASAddr: a.Current.CASAddr}})
	}
}

// settleReach notes whether an app's CAS answered. Callers hold mu.
func (m *Manager) settleReach(c *HeldCAS, err error, now time.Time) {
	m.reached[c.App] = reach{at: now, err: err}
}

// renew stops the instance, once it is drained, and lets its next attempt start at
// once.
func (p *planner) renew(a *App, in *Instance) {
	s, there := p.seen(in)
	switch {
	case there && p.busy[s.ID]:
	case there && s.State != StateExited:
		p.end(a, in, s)
	default:
		if there && in.Recorded < in.Attempt {
			in = p.ended(a, in, s)
		}
		in = p.editInstance(in)
		if there {
			in.Attempt++
		}
		in.Renewing, in.NotBefore, in.Problem = false, time.Time{}, nil
	}
}
