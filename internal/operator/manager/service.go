package manager

import (
	"context"
	"slices"
	"strings"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

// mayUse refuses everybody but the app's owner and the operator.
func (m *Manager) mayUse(caller ident.KeyHash, a *App) error {
	if caller == a.Owner || caller == m.cfg.Operator {
		return nil
	}
	return problem.New(problem.Denied, problem.RuleNotOwner, "app %q belongs to another key", a.Name).
		Fix("use the key that deployed it (--config), or the operator's")
}

// findApp returns the app of that id or name. Every key has names of its own: what
// others call theirs is nobody's business, and their ids are none. Who names an app that
// only another key has is told so: they may have meant to use that key. Callers hold mu.
func (m *Manager) findApp(caller ident.KeyHash, ref ident.AppRef) (*App, error) {
	var named []*App
	for _, a := range m.state.Apps {
		switch {
		case a.ID == string(ref) && m.mayUse(caller, a) == nil:
			return a, nil
		case a.Name == string(ref) && a.Owner == caller:
			return a, nil
		case a.Name == string(ref):
			named = append(named, a)
		}
	}

	switch len(named) {
	case 0:
		return nil, m.noApp(caller, "no app %.100q", ref)
	case 1:
		return named[0], m.mayUse(caller, named[0])
	}

	var ids []string
	for _, a := range named {
		if err := m.mayUse(caller, a); err != nil {
			return nil, err
		}
		ids = append(ids, a.ID)
	}

	slices.Sort(ids)
	return nil, problem.New(problem.Conflict, ruleAppNameAmbiguous, "%d keys have an app %q", len(named), ref).
		Want("the id of one: %s", strings.Join(ids, ", ")).
		Fix("see 'cupel ps -o json'; if one of them is yours: --as-owner")
}

// noApp says that an app is not there, and which of the caller's was meant. Callers
// hold mu.
func (m *Manager) noApp(caller ident.KeyHash, format string, ref ident.AppRef) *problem.Error {
	var names []string
	for _, a := range m.state.Apps {
		if m.mayUse(caller, a) == nil {
			names = append(names, a.Name)
		}
	}

	e := problem.New(problem.NotFound, ruleApp, format, ref).Fix("see 'cupel ps'")
	if near := problem.Nearest(string(ref), names); near != "" {
		e.Fix("did you mean %s? See 'cupel ps'", near)
	}
	return e
}

// RemoveApp removes an app with all its instances. It answers when that is
// certain to happen; the app is gone when Apps lists it no more.
func (m *Manager) RemoveApp(ctx context.Context, caller ident.KeyHash, ref ident.AppRef) (managerapi.App, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.findApp(caller, ref)
	if err != nil {
		return managerapi.App{}, err
	}
	if a.Removing {
		return m.view(a), nil
	}

	c := *a
	c.Removing = true
	if c.Rollout.active() {
		c.Rollout.Phase = PhaseFailed
		c.Rollout.Problem = problem.New(problem.Conflict, problem.RuleAppRemoved, "the app was removed during its deployment")
	}

	change := Change{Apps: []*App{&c}, Events: []Event{newEvent(m.cfg.Now(), a, nil, "app_removing", "removal asked for")}}
	if err := m.commit(ctx, change); err != nil {
		return managerapi.App{}, err
	}
	m.poke()
	return m.view(&c), nil
}

// RemoveInstance eliminates one instance; the app goes on with one fewer.
func (m *Manager) RemoveInstance(ctx context.Context, caller ident.KeyHash, id ident.InstanceRef) (managerapi.RemoveInstanceReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, a, err := m.replica(caller, id)
	if err != nil {
		return managerapi.RemoveInstanceReply{}, err
	}

	gone := *r
	gone.Removing = true
	c := Change{Replicas: []*Replica{&gone}}

	next := *a
	for _, at := range []**Revision{&next.Current, &next.Next} {
		if rev := *at; rev != nil && rev.Number == r.Revision && r.Role == RoleApp && !r.Done && !r.Removing {
			fewer := *rev
			fewer.Instances = max(0, fewer.Instances-1)
			*at = &fewer
		}
	}
	c.Apps = []*App{&next}

	left := 0
	if rev := newestRevision(&next); rev != nil {
		left = rev.Instances
	}
	c.Events = []Event{newEvent(m.cfg.Now(), a, r, "instance_removing", "removal asked for; the app goes on with "+problem.Count(left, "instance"))}

	if err := m.commit(ctx, c); err != nil {
		return managerapi.RemoveInstanceReply{}, err
	}
	m.poke()
	return managerapi.RemoveInstanceReply{Version: managerapi.Version, App: a.Name, Instances: left}, nil
}

// replica returns an instance and its app. That of another key is none, as one that there
// never was: its id tells a stranger nothing. Callers hold mu.
func (m *Manager) replica(caller ident.KeyHash, id ident.InstanceRef) (*Replica, *App, error) {
	if r, ok := m.state.Replicas[string(id)]; ok {
		if a := m.state.Apps[r.App]; a != nil && m.mayUse(caller, a) == nil {
			return r, a, nil
		}
	}

	e := problem.New(problem.NotFound, ruleInstance, "no instance %.100q", id).Fix("see 'cupel ps'")
	for _, a := range m.state.Apps {
		if a.Name == string(id) && m.mayUse(caller, a) == nil {
			e.Fix("that is an app's name: 'cupel rm --app %s', 'cupel ps'", id)
		}
	}
	return nil, nil, e
}

// Apps lists the caller's apps by name; the operator's are all.
func (m *Manager) Apps(caller ident.KeyHash) []managerapi.App {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []managerapi.App{}
	for _, a := range m.state.Apps {
		if m.mayUse(caller, a) == nil {
			out = append(out, m.view(a))
		}
	}

	slices.SortFunc(out, func(a, b managerapi.App) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// App returns one app by id or name.
func (m *Manager) App(caller ident.KeyHash, ref ident.AppRef) (managerapi.App, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.findApp(caller, ref)
	if err != nil {
		return managerapi.App{}, err
	}
	return m.view(a), nil
}
