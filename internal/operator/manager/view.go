package manager

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
)

// view is an app as the API shows it. Callers hold mu.
func (m *Manager) view(a *App) managerapi.App {
	rev := a.Current
	if rev == nil {
		rev = a.Next
	}
	if rev == nil {
		rev = a.Lost
	}
	out := managerapi.App{ID: a.ID, Name: a.Name, Owner: a.Owner, Session: a.Session, CreatedAt: a.CreatedAt}
	if rev != nil {
		out.Session, out.Service, out.Runtime = rev.Session, rev.Service, rev.Runtime
		out.Instances, out.Memory, out.Port, out.ContainerPort = rev.Instances, rev.Memory, rev.Port, rev.ContainerPort
	}
	if a.Current != nil {
		out.Revision = a.Current.Number
	} else if a.Next == nil {
		out.Port = 0 // given up with the deployment
	}
	for _, r := range m.byApp[a.ID] {
		if r.Role != RoleApp || a.Current == nil || r.Revision != a.Current.Number || r.Done || r.Removing {
			continue
		}
		if s, ok := m.observed[attemptID(r, r.Attempt)]; ok && s.ready() {
			out.Healthy++
		}
	}
	out.Deployment = managerapi.Deployment{
		Revision: a.Rollout.Revision, State: managerapi.DeploymentRunning,
		Steps: slices.Clone(a.Rollout.Steps), Problem: a.Rollout.Problem, Waiting: a.Rollout.Waiting, Warning: a.Rollout.Warning,
		Grant: a.Rollout.Grant, GapSeconds: a.Rollout.Gap.Seconds(),
	}
	if a.Current != nil && a.Current.Grant != nil {
		id := a.Current.Grant.ID
		out.Grant = &id
	}
	if out.Problem = m.ownersProblem(a); out.Problem == nil {
		out.Problem = m.takenFrom(a)
	}
	if out.Deployment.Steps == nil {
		out.Deployment.Steps = []managerapi.Step{}
	}
	switch a.Rollout.Phase {
	case PhaseDone:
		out.Deployment.State = managerapi.DeploymentDone
	case PhaseFailed:
		out.Deployment.State = managerapi.DeploymentFailed
	}
	switch {
	case a.Removing:
		out.State = managerapi.AppRemoving
	case a.Rollout.active():
		out.State = managerapi.AppDeploying
	case a.Current == nil:
		out.State = managerapi.AppFailed
	case out.Healthy >= out.Instances:
		out.State = managerapi.AppReady
	case out.Healthy > 0:
		out.State = managerapi.AppDegraded
	default:
		out.State = managerapi.AppDown
	}
	return out
}

// Instances lists the caller's instances, of one app (id or name) unless it is
// empty, by app and age.
func (m *Manager) Instances(ctx context.Context, caller ident.KeyHash, app string) ([]managerapi.Instance, error) {
	fresh, err := m.cfg.Backend.List(ctx) // for the memory in use
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := m.observed
	if err == nil {
		seen = make(map[string]InstanceStatus, len(fresh))
		for _, s := range fresh {
			seen[s.ID] = s
		}
	}
	if app != "" {
		a, err := m.findApp(caller, app)
		if err != nil {
			return nil, err
		}
		app = a.ID
	}
	var list []*App
	for _, a := range m.state.Apps {
		if m.mayUse(caller, a) == nil && (app == "" || app == a.ID) {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b *App) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	out := []managerapi.Instance{}
	for _, a := range list {
		for _, r := range m.byApp[a.ID] {
			out = append(out, m.viewReplica(r, seen))
		}
	}
	return out, nil
}

func (m *Manager) viewReplica(r *Replica, seen map[string]InstanceStatus) managerapi.Instance {
	a := m.state.Apps[r.App]
	out := managerapi.Instance{
		ID: r.ID, App: a.Name, AppID: a.ID, Role: string(r.Role), Revision: r.Revision,
		State: "waiting", Restarts: r.Restarts, Simulated: m.cfg.Simulated,
		ExitCode: r.ExitCode, OOMKilled: r.OOM, Problem: r.Problem,
		CreatedAt: r.CreatedAt,
	}
	var image imageState
	for _, rev := range []*Revision{a.Current, a.Next, a.Lost} {
		if rev != nil && rev.Number == r.Revision {
			out.Memory, image = rev.Memory, m.images[rev.image(r.Role)]
			if r.Role == RoleApp && rev != a.Lost {
				out.Port = rev.Port
			}
		}
	}
	s, ok := seen[attemptID(r, r.Attempt)]
	switch {
	case !ok && r.Done:
		out.State = string(StateExited)
		return out
	case !ok && m.busy[attemptID(r, r.Attempt)]:
		out.State = string(StateStarting)
		return out
	case !ok:
		out.NextStart = r.NotBefore
		if m.queued[r.ID] {
			out.Problem = m.awaitsTurn()
		}
		if image.problem != nil {
			out.Problem = image.problem
		}
		return out
	}
	out.State, out.Phase, out.Health = string(s.State), s.Phase, string(s.Health)
	out.Memory, out.MemoryUsed, out.InstanceID, out.Attested = s.Memory, s.MemoryUsed, s.InstanceID, s.attested()
	out.StartedAt = s.StartedAt
	if s.IP.IsValid() {
		out.IP = s.IP.String()
	}
	if s.State == StateExited {
		out.ExitCode, out.OOMKilled = s.ExitCode, s.OOMKilled
	}
	if s.Problem != nil {
		out.Problem = s.Problem
	}
	return out
}
