package manager

import "slices"

// frontend is what the app's port shall lead to. The serving revision is the
// new one from the step "switch" on.
func (p *planner) frontend(a *App) Frontend {
	rev := a.Current
	if a.Rollout.Phase == PhaseSwitch && a.Next != nil {
		rev = a.Next
	}
	if rev == nil {
		return Frontend{App: a.ID}
	}

	f := Frontend{App: a.ID, Port: rev.Port}
	for _, r := range p.replicasOf(a.ID) {
		s, ok := p.newestAttempt(r)
		switch {
		case !ok || r.Role != RoleApp || r.Done || r.Revision > rev.Number || !s.IP.IsValid():
		case s.State == StateStopping, s.State == StateRunning && (r.Revision < rev.Number || r.Removing || r.Renewing):
			f.Leaving = append(f.Leaving, Leaving{Instance: r.ID, IP: s.IP})
		case r.Revision == rev.Number && s.ready():
			f.Endpoints = append(f.Endpoints, Endpoint{Instance: r.ID, IP: s.IP, Port: rev.ContainerPort})
		}
	}
	return f
}

// frontends is everything that the balancer shall serve, ports that are held
// for a deployment under way included.
func (p *planner) frontends() []Frontend {
	var out []Frontend
	taken := map[uint16]bool{}
	add := func(f Frontend) {
		if f.Port != 0 && !taken[f.Port] {
			taken[f.Port] = true
			out = append(out, f)
		}
	}

	for _, id := range p.appIDs {
		if a := p.app(id); !a.Removing {
			add(p.frontend(a))
		}
	}

	for _, id := range p.appIDs {
		if a := p.app(id); !a.Removing && a.Next != nil {
			add(Frontend{App: a.ID, Port: a.Next.Port})
		}
	}

	slices.SortFunc(out, func(a, b Frontend) int { return int(a.Port) - int(b.Port) })
	return out
}

// planBalance programs the balancer when it serves something else. A port that
// somebody else took is left out, so that it doesn't stop the others, and is
// tried again.
func (p *planner) planBalance() {
	var want []Frontend
	for _, f := range p.frontends() {
		if p.balance.failed[f.Port] == nil {
			want = append(want, f)
		}
	}

	if len(p.balance.failed) > 0 {
		p.wakeAt(p.balance.retry)
	}

	if p.balance.known && slices.EqualFunc(want, p.applied.frontends, sameFrontend) {
		return
	}
	if !p.balance.known && p.unjudged() {
		return // its verdict is an event, which brings us here again
	}
	if p.now.Before(p.balance.retry) && len(p.balance.failed) == 0 {
		p.wakeAt(p.balance.retry)
		return
	}

	p.act(programBalancer{want})
}

// unjudged says that a running instance has no health yet. A manager that just
// started waits for it before it first programs the balancer: an endpoint that
// is left out for a moment has lost all its clients.
func (p *planner) unjudged() bool {
	for _, r := range p.state.Replicas {
		if r.Role != RoleApp || r.Done || r.Removing {
			continue
		}
		if s, ok := p.observed[attemptID(r, r.Attempt)]; ok && s.State == StateRunning && s.Health == HealthUnknown {
			return true
		}
	}
	return false
}

// balancerHas says that the balancer has the port.
func (p *planner) balancerHas(port uint16) bool { return p.applied.ports[port] }

// leadsTo says that the balancer leads to the instance, or may.
func (p *planner) leadsTo(r *Replica) bool {
	return !p.balance.known || p.applied.replicas[r.ID]
}

func sameFrontend(a, b Frontend) bool {
	return a.App == b.App && a.Port == b.Port && slices.Equal(a.Endpoints, b.Endpoints) && slices.Equal(a.Leaving, b.Leaving)
}

// removeApp clears an app away: first its port, then its instances, then its
// record.
func (p *planner) removeApp(a *App) {
	for _, r := range p.replicasOf(a.ID) {
		p.discard(a, r)
	}

	served := !p.balance.known || len(p.applied.apps[a.ID]) > 0
	if len(p.replicasOf(a.ID)) > 0 || served {
		return
	}

	for _, h := range a.grants() {
		p.change.Notices = append(p.change.Notices, giveBackNotice(p.now, a, h))
	}
	p.change.DeleteApps = append(p.change.DeleteApps, a.ID)
	p.note(a, nil, "app_removed", "app removed")
}
