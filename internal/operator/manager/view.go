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
	out := managerapi.App{
		ID:         a.ID,
		Name:       a.Name,
		Owner:      a.Owner,
		Session:    a.Session,
		CreatedAt:  a.CreatedAt,
		Healthy:    m.healthy(a),
		Deployment: viewDeployment(&a.Rollout),
	}

	// What serves, or else what is to, or was to and failed.
	if rev := cmp.Or(a.Current, a.Next, a.Lost); rev != nil {
		out.Session = rev.Session
		out.Service = rev.Service
		out.Runtime = rev.Runtime
		out.Instances = rev.Instances
		out.Memory = rev.Memory
		out.Port = rev.Port
		out.ContainerPort = rev.ContainerPort
	}
	if a.Current != nil {
		out.Revision = a.Current.Number
	} else if a.Next == nil {
		out.Port = 0 // given up with the deployment
	}
	if a.Current != nil && a.Current.Grant != nil {
		id := a.Current.Grant.ID
		out.Grant = &id
	}

	if out.Problem = m.ownersProblem(a); out.Problem == nil {
		out.Problem = m.takenFrom(a)
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

// healthy counts the instances of the revision that serves that may take connections.
// Callers hold mu.
func (m *Manager) healthy(a *App) int {
	n := 0
	for _, r := range m.byApp[a.ID] {
		if r.Role != RoleApp || a.Current == nil || r.Revision != a.Current.Number || r.Done || r.Removing {
			continue
		}
		if s, ok := m.observed[attemptID(r, r.Attempt)]; ok && s.ready() {
			n++
		}
	}
	return n
}

func viewDeployment(roll *Rollout) managerapi.Deployment {
	out := managerapi.Deployment{
		Revision:   roll.Revision,
		State:      managerapi.DeploymentRunning,
		Steps:      slices.Clone(roll.Steps),
		Problem:    roll.Problem,
		Waiting:    roll.Waiting,
		Warning:    roll.Warning,
		Grant:      roll.Grant,
		GapSeconds: roll.Gap.Seconds(),
	}
	if out.Steps == nil {
		out.Steps = []managerapi.Step{}
	}
	switch roll.Phase {
	case PhaseDone:
		out.State = managerapi.DeploymentDone
	case PhaseFailed:
		out.State = managerapi.DeploymentFailed
	}
	return out
}

// Instances lists the caller's instances, of one app (id or name) unless it is
// empty, by app and age.
func (m *Manager) Instances(ctx context.Context, caller ident.KeyHash, app ident.AppRef) ([]managerapi.Instance, error) {
	fresh, err := m.cfg.Backend.List(ctx) // for the memory in use

	m.mu.Lock()
	defer m.mu.Unlock()
	seen := m.observed
	if err == nil {
		seen = make(map[ident.AttemptID]InstanceStatus, len(fresh))
		for _, s := range fresh {
			seen[s.ID] = s
		}
	}

	if app != "" {
		a, err := m.findApp(caller, app)
		if err != nil {
			return nil, err
		}
		app = ident.AppRef(a.ID)
	}

	var list []*App
	for _, a := range m.state.Apps {
		if m.mayUse(caller, a) == nil && (app == "" || app == ident.AppRef(a.ID)) {
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

// viewReplica is a replica, with what is seen of its newest attempt, as the API shows it.
// Callers hold mu.
func (m *Manager) viewReplica(r *Replica, seen map[ident.AttemptID]InstanceStatus) managerapi.Instance {
	a := m.state.Apps[r.App]
	out := managerapi.Instance{
		ID:        r.ID,
		App:       a.Name,
		AppID:     a.ID,
		Role:      string(r.Role),
		Revision:  r.Revision,
		State:     "waiting",
		Restarts:  r.Restarts,
		Simulated: m.cfg.Simulated,
		ExitCode:  r.ExitCode,
		OOMKilled: r.OOM,
		Problem:   r.Problem,
		CreatedAt: r.CreatedAt,
	}

	var image imageState
	if rev := a.revisionNumbered(r.Revision); rev != nil {
		out.Memory = rev.Memory
		image = m.images[rev.image(r.Role)]
		if r.Role == RoleApp && rev != a.Lost {
			out.Port = rev.Port
		}
	}

	id := attemptID(r, r.Attempt)
	s, ok := seen[id]
	switch {
	case ok:
		viewStatus(&out, s)
	case r.Done:
		out.State = string(StateExited)
	case m.busy[string(id)]:
		out.State = string(StateStarting)
	default:
		out.NextStart = r.NotBefore
		if m.queued[r.ID] {
			out.Problem = m.awaitsTurn()
		}
		if image.problem != nil {
			out.Problem = image.problem
		}
	}
	return out
}

// viewStatus shows what the Backend says of an attempt.
func viewStatus(out *managerapi.Instance, s InstanceStatus) {
	out.State = string(s.State)
	out.Phase = s.Phase
	out.Health = string(s.Health)
	out.Memory = s.Memory
	out.MemoryUsed = s.MemoryUsed
	out.InstanceID = s.InstanceID
	out.Attested = s.attested()
	out.StartedAt = s.StartedAt
	if s.IP.IsValid() {
		out.IP = s.IP.String()
	}

	if s.State == StateExited {
		out.ExitCode = s.ExitCode
		out.OOMKilled = s.OOMKilled
	}
	if s.Problem != nil {
		out.Problem = s.Problem
	}
}
