package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

// launch makes one slow call beside the loop. Callers hold mu.
func (m *Manager) launch(ctx context.Context, calls *sync.WaitGroup, a action) {
	if m.busy[a.key] {
		return
	}
	m.busy[a.key] = true
	m.work.calls++
	calls.Go(func() {
		m.settle(outcome{a, m.call(ctx, a)})
		m.poke()
	})
}

func (m *Manager) call(ctx context.Context, a action) error {
	b := m.cfg.Backend
	switch {
	case a.start != nil:
		return b.Start(ctx, *a.start)
	case a.stop != "":
		err := b.Stop(ctx, a.stop, m.limits.Grace)
		if problem.KindOf(err) == problem.NotFound {
			return nil // gone, which is more than was asked for
		}
		return err
	case a.drop != "":
		if err := b.Stop(ctx, a.drop, m.limits.Grace); err != nil && problem.KindOf(err) != problem.NotFound {
			return err
		}
		return b.Remove(ctx, a.drop)
	case a.image != "":
		_, err := b.EnsureImage(ctx, a.image)
		return err
	case a.tell != nil:
		return m.deliver(ctx, a.tell)
	case a.look != nil:
		return a.look.take(ctx, m.cfg.Balancer)
	case a.reach != nil:
		return m.cfg.Grants.Reach(ctx, m.casAddr(a.reach.CAS, a.reach.CASAddr), a.reach.CAS)
	}
	return m.cfg.Balancer.Apply(ctx, a.apply)
}

// settle takes note of what became of an action.
func (m *Manager) settle(o outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.busy, o.action.key)
	now := m.cfg.Now()
	cancelled := errors.Is(o.err, context.Canceled)
	switch a := o.action; {
	case a.key == balanceKey:
		m.settleBalance(a, o.err, now)
	case a.look != nil:
		if o.err != nil && !cancelled {
			m.cfg.Log.Warn("connections of leaving instances not counted", "error", o.err)
		}
		m.settleLook(a.look, o.err, now)
	case a.reach != nil:
		m.settleReach(a.reach, o.err, now)
	case a.tell != nil:
		if !cancelled {
			m.settleTell(a.tell, o.err, now)
		}
	case a.image != "":
		st := imageState{ready: o.err == nil}
		if o.err != nil && !cancelled {
			st.failures = m.images[a.image].failures + 1
			st.problem = problem.From(o.err)
			st.retry = now.Add(backoff(m.limits, st.failures))
			m.tellMissing(a.image, st)
		}
		m.images[a.image] = st
	case o.err == nil || cancelled:
		delete(m.startErr, o.action.key)
		delete(m.uncleared, o.action.key)
	case a.start != nil:
		if p := problem.From(o.err); p.Rule == problem.RuleImageMissing {
			m.images[a.start.Image] = imageState{} // bring it again
		} else {
			m.startErr[a.key] = p
		}
	default:
		m.stuck(a.key, o.err)
		m.busy[a.key] = true // breathe before the next try
		time.AfterFunc(time.Second, func() {
			m.mu.Lock()
			delete(m.busy, a.key)
			m.mu.Unlock()
			m.poke()
		})
	}
	m.broadcast()
}

func (m *Manager) settleBalance(a action, err error, now time.Time) {
	switch {
	case err == nil:
		m.applied, m.balance.known = servingOf(a.apply), true
		m.tellServed()
		return
	case errors.Is(err, context.Canceled):
		return
	}
	m.balance.retry = now.Add(5 * time.Second)
	m.cfg.Log.Warn("balancer not programmed", "error", err)
	if problem.From(err).Rule != problem.RulePortTaken {
		return
	}
	for _, f := range a.apply {
		if m.applied.ports[f.Port] {
			continue
		}
		if busy := m.cfg.PortFree(f.Port); busy != nil {
			if m.balance.failed == nil {
				m.balance.failed = map[uint16]*problem.Error{}
			}
			m.balance.failed[f.Port] = portTaken(f.Port, busy)
			m.tellTaken(f)
		}
	}
}

// tellMissing tells once of an image that can't be had, as an event of each app that
// serves from it: a deployment that waits for one says so by itself. Callers hold mu.
func (m *Manager) tellMissing(ref string, st imageState) {
	if st.failures != 1 {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(m.state.Apps)) {
		if a := m.state.Apps[id]; a.Current != nil && a.Current.Image == ref {
			m.cfg.Incidents.Tell(Incident{App: id, Warning: true, Reason: string(st.problem.Rule), Message: explained(st.problem) + "; it is tried again"})
		}
	}
}

// tellTaken tells once that another program has the port of an app that serves: its
// users reach that one. Callers hold mu.
func (m *Manager) tellTaken(f Frontend) {
	a := m.state.Apps[f.App]
	if a == nil || a.Current == nil || a.Current.Port != f.Port || m.takenFrom(a) != nil {
		return
	}
	if m.taken == nil {
		m.taken = map[uint16]string{}
	}
	why := takenByAnother(f.Port)
	m.taken[f.Port] = a.ID
	m.cfg.Incidents.Tell(Incident{App: a.ID, Warning: true, Reason: string(why.Rule), Message: why.Actual + "; " + why.Mend})
}

func takenByAnother(port uint16) *problem.Error {
	return problem.New(problem.Conflict, problem.RulePortTaken, "another program of this machine has port %d: the app's users reach that one, and not the app", port).
		Fix("the operator stops what has it (ss -ltnp): it is tried every few seconds; or its owner deploys the app with another --port")
}

// TakenPorts says of each app that serves, before the balancer has any port, which other
// program has its port.
func (m *Manager) TakenPorts() []managerapi.App {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []managerapi.App
	for _, id := range slices.Sorted(maps.Keys(m.state.Apps)) {
		a := m.state.Apps[id]
		if a.Removing || a.Current == nil || a.Current.Port == 0 || m.cfg.PortFree(a.Current.Port) == nil {
			continue
		}
		app := m.view(a)
		app.Problem = takenByAnother(a.Current.Port)
		out = append(out, app)
	}
	return out
}

// takenFrom says that another program has the port of an app that serves; nil: none has.
// Callers hold mu.
func (m *Manager) takenFrom(a *App) *problem.Error {
	if a.Current == nil || m.taken[a.Current.Port] != a.ID {
		return nil
	}
	return takenByAnother(a.Current.Port)
}

// tellServed tells which ports lead to their apps again, and forgets those that the app
// has no more, whoever has them now. Callers hold mu.
func (m *Manager) tellServed() {
	for port, app := range m.taken {
		if m.balance.failed[port] != nil {
			continue
		}
		delete(m.taken, port)
		for _, f := range m.applied.frontends {
			if f.Port == port && f.App == app {
				m.cfg.Incidents.Tell(Incident{App: f.App, Reason: "port_served", Message: fmt.Sprintf("port %d leads to the app again", port)})
			}
		}
	}
}

func portTaken(port uint16, cause error) *problem.Error {
	if errors.Is(cause, syscall.EADDRINUSE) {
		cause = errors.New("another program of this machine has it")
	}
	return problem.New(problem.Conflict, problem.RulePortTaken, "port %d is taken: %w", port, cause).
		Fix("give another with --port, or leave it out to get the next free one")
}
