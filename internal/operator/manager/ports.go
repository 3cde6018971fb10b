package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

// settleBalance takes note of how it went to program the balancer. Where somebody else
// has a port, the others are served without it. Callers hold mu.
func (m *Manager) settleBalance(want []Frontend, err error, now time.Time) {
	switch {
	case err == nil:
		m.applied = servingOf(want)
		m.balance.known = true
		m.tellServed()
		return
	case errors.Is(err, context.Canceled):
		return
	}

	m.balance.retry = now.Add(5 * time.Second)
	m.cfg.Log.Warn("balancer not programmed", "error", err)
	if !problem.Is(err, problem.RulePortTaken) {
		return
	}

	for _, f := range want {
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
func (m *Manager) tellMissing(ref ident.ImageRef, st imageState) {
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
