package manager

import (
	"fmt"
	"slices"
	"strings"
	"time"

	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/plain"
	"cupel.dev/cupel/internal/trusted/wire"
)

// rollout takes the next step of the app's deployment. Steps that need no
// waiting follow each other in one pass.
func (p *planner) rollout(a *App) {
	p.bound(a)
	a = p.app(a.ID)
	r := &a.Rollout
	if !p.now.Before(r.Deadline) && r.Phase != PhaseDrain {
		p.fail(a, p.late(a))
		return
	}
	if r.Phase != PhaseDrain {
		p.wakeAt(r.Deadline)
	}
	switch r.Phase {
	case PhaseImages:
		p.bringImages(a)
	case PhasePull:
		p.pull(a)
	case PhaseStop:
		p.makeRoom(a)
	case PhaseStart:
		p.raise(a)
	case PhaseSwitch:
		p.switchOver(a)
	case PhaseDrain:
		p.drain(a)
	}
}

// bound keeps the rollout's times within its limits, also where the clock was set
// back since they were stored.
func (p *planner) bound(a *App) {
	latest := p.now.Add(p.limits.Deadline)
	if a.Rollout.Deadline.After(latest) {
		p.edit(a).Rollout.Deadline = latest
	}
	if a.Rollout.StoppedAt.After(p.now) {
		p.edit(a).Rollout.StoppedAt = p.now
	}
	for i, s := range a.Rollout.Steps {
		if s.EndedAt.IsZero() && s.StartedAt.After(p.now) {
			p.edit(a).Rollout.Steps[i].StartedAt = p.now
		}
	}
}

// takeUp gives a rollout that an earlier process began its time anew: that process may
// have ended a day ago, by whatever clock, and nothing came of it meanwhile.
func (r *Rollout) takeUp(now time.Time, limit time.Duration) {
	r.Deadline = now.Add(limit)
	for i, s := range r.Steps {
		if s.EndedAt.IsZero() {
			r.Steps[i].StartedAt = now
		}
	}
}

// bringImages waits for both images, with the public port already held.
func (p *planner) bringImages(a *App) {
	if e := p.balance.failed[a.Next.Port]; e != nil {
		p.fail(a, e)
		return
	}
	p.begin(a, managerapi.StepImages, 0)
	for _, ref := range []string{a.Next.PullImage, a.Next.Image} {
		p.wanted[ref] = true
		st := p.images[ref]
		if st.ready {
			continue
		}
		if st.problem != nil && (definite(st.problem) || st.failures > p.limits.MaxFailures) {
			p.fail(a, st.problem)
		} else {
			p.waiting(a, st.problem)
		}
		return
	}
	if !p.balance.known || !p.holds(a.Next.Port) {
		return // the port comes before anything is started
	}
	p.finish(a, managerapi.StepImages)
	p.advance(a, PhasePull)
	p.create(a, RolePull, 1)
	p.begin(a, managerapi.StepPull, 0)
	p.event(a, nil, false, "pulling", "pulling the repository inside, as %s/%s", a.Next.Session, a.Next.PullService)
}

// pull waits for the job that fills the volume.
func (p *planner) pull(a *App) {
	job := p.newest(a, RolePull)
	if job == nil { // its record was lost with a failed write: make it again
		p.create(a, RolePull, 1)
		return
	}
	if s, ok := p.seen(job); ok && s.State == StateExited && !job.Done {
		p.judge(a, job, s)
		job = p.newest(a, RolePull)
	}
	if !job.Done {
		if p.hopeless(job) {
			p.fail(a, job.Problem)
			return
		}
		p.waiting(a, p.trouble(job))
		return
	}
	p.finish(a, managerapi.StepPull)
	if len(a.Next.Writes) > 0 && a.Current != nil {
		p.stopFirst(a)
		return
	}
	p.startNext(a)
}

// stopFirst begins to stop the revision before, as the next one writes a volume
// and the CAS releases to one writer at a time.
func (p *planner) stopFirst(a *App) {
	p.advance(a, PhaseStop)
	p.begin(a, managerapi.StepStop, 0)
	a = p.edit(a)
	if a.Rollout.StoppedAt.IsZero() {
		a.Rollout.StoppedAt = p.now
	}
	p.event(a, nil, false, "stopping", "stopping revision %d: the app writes volume %s, which has one writer; nothing serves until revision %d does",
		a.Current.Number, strings.Join(a.Next.Writes, ", "), a.Next.Number)
}

// makeRoom waits until the revision before has ended, and stored what it wrote.
func (p *planner) makeRoom(a *App) {
	if p.runs(a, a.Current.Number) {
		return
	}
	p.finish(a, managerapi.StepStop)
	p.startNext(a)
}

func (p *planner) startNext(a *App) {
	p.advance(a, PhaseStart)
	p.create(a, RoleApp, a.Next.Instances)
	p.begin(a, managerapi.StepStart, a.Next.Instances)
	p.event(a, nil, false, "starting", "starting %s", problem.Count(a.Next.Instances, "instance"))
}

// resumed tells for how long nothing served, once the revision that was stopped
// for a failed deployment serves again.
func (p *planner) resumed(a *App) {
	r := &a.Rollout
	if r.StoppedAt.IsZero() || a.Current == nil || r.Phase == PhaseStop || r.Phase == PhaseStart || r.Phase == PhaseSwitch {
		return
	}
	if f := p.frontend(a); len(f.Endpoints) < a.Current.Instances {
		return
	}
	a = p.edit(a)
	gap := p.now.Sub(a.Rollout.StoppedAt)
	a.Rollout.StoppedAt, a.Rollout.Gap = time.Time{}, gap
	p.event(a, nil, true, "serving_again", "revision %d serves again; nothing served for %s", a.Current.Number, problem.Duration(gap.Round(time.Millisecond)))
}

// raise waits until every new instance started, attested and is healthy.
func (p *planner) raise(a *App) {
	var started, attested, healthy int
	var trouble *problem.Error
	for _, in := range p.of(a.ID) {
		if in.Revision != a.Next.Number || in.Role != RoleApp {
			continue
		}
		if p.hopeless(in) {
			p.fail(a, in.Problem)
			return
		}
		if why := p.trouble(in); why != nil {
			trouble = why
		}
		s, ok := p.seen(in)
		if !ok || s.State == StateExited {
			continue
		}
		started++
		if s.attested() {
			attested++
		}
		if s.ready() {
			healthy++
		}
	}
	n := a.Next.Instances
	p.count(a, managerapi.StepStart, started, n)
	if started == n {
		p.count(a, managerapi.StepAttest, attested, n)
	}
	if started == n && attested == n {
		p.count(a, managerapi.StepHealth, healthy, n)
	}
	p.waiting(a, trouble)
	if healthy < n {
		p.awaitHealth(a)
		return
	}
	p.advance(a, PhaseSwitch)
	p.begin(a, managerapi.StepSwitch, 0)
}

// awaitHealth gives up on instances that run and never accept connections.
func (p *planner) awaitHealth(a *App) {
	s := p.step(p.app(a.ID), managerapi.StepHealth)
	if s == nil {
		return
	}
	if limit := s.StartedAt.Add(p.limits.Health); p.now.Before(limit) {
		p.wakeAt(limit)
		return
	}
	if w := p.app(a.ID).Rollout.Waiting; w != nil {
		p.fail(a, gaveUp(w, p.limits.Health))
		return
	}
	p.fail(a, problem.New(problem.Unavailable, problem.RuleUnhealthy, "not every instance accepted connections on port %d within %s", a.Next.ContainerPort, problem.Duration(p.limits.Health)).
		Fix("let the app listen on port %d of all addresses, or name its port with --port PUBLIC:CONTAINER", a.Next.ContainerPort))
}

// gaveUp is the end of a deployment by what it waited for, after so long.
func gaveUp(why *problem.Error, after time.Duration) *problem.Error {
	e := *why
	e.Actual = "gave up after " + problem.Duration(after) + ": " + plain.Met(e.Rule, e.Actual)
	return &e
}

// switchOver waits until the balancer leads to the new instances.
func (p *planner) switchOver(a *App) {
	if e := p.balance.failed[a.Next.Port]; e != nil {
		p.fail(a, e)
		return
	}
	want := p.frontend(p.app(a.ID))
	if !p.balance.known || !slices.ContainsFunc(p.applied.apps[a.ID], func(f Frontend) bool { return sameFrontend(f, want) }) {
		return
	}
	p.finish(a, managerapi.StepSwitch)
	a = p.edit(a)
	first := a.Current == nil
	a.release(a.Current)
	a.Current, a.Next, a.OwnerAsked = a.Next, nil, false
	gap := ""
	if !a.Rollout.StoppedAt.IsZero() {
		a.Rollout.Gap = p.now.Sub(a.Rollout.StoppedAt)
		a.Rollout.StoppedAt = time.Time{}
		gap = fmt.Sprintf("; nothing served for %s", problem.Duration(a.Rollout.Gap.Round(time.Millisecond)))
	}
	if !first && p.limits.Drain > 0 && gap == "" {
		gap = fmt.Sprintf("; connections to the revision before have up to %s to end", problem.Duration(p.limits.Drain))
	}
	p.event(a, nil, false, "switched", "port %d leads to revision %d%s", a.Current.Port, a.Current.Number, gap)
	if first {
		p.done(a)
		return
	}
	p.advance(a, PhaseDrain)
	p.begin(a, managerapi.StepDrain, 0)
}

// drain waits until the instances of the revision before are gone; planInstance
// discards them, as no revision claims them any more.
func (p *planner) drain(a *App) {
	for _, in := range p.of(a.ID) {
		if in.Revision != a.Current.Number && !in.Done {
			return
		}
	}
	p.finish(a, managerapi.StepDrain)
	p.done(p.edit(a))
}

func (p *planner) done(a *App) {
	a = p.edit(a)
	a.Rollout.Phase, a.Rollout.Waiting = PhaseDone, nil
	p.event(a, nil, false, "deployed", "revision %d serves on port %d with %s", a.Current.Number, a.Current.Port, problem.Count(a.Current.Instances, "instance"))
}

// fail ends the deployment. What served before goes on serving; the new
// instances stop, and the newest of them stay where their logs can be read.
func (p *planner) fail(a *App, why *problem.Error) {
	a = p.edit(a)
	for _, in := range p.of(a.ID) {
		if a.Next != nil && in.Revision == a.Next.Number && !in.Done {
			in = p.editInstance(in)
			in.Done = true
			if in.Recorded < in.Attempt { // its newest attempt that ran
				if _, there := p.seen(in); !there && in.Attempt > 1 {
					in.Attempt--
				}
			}
		}
	}
	a.release(a.Next)
	a.Lost, a.Next = a.Next.withoutGrant(), nil
	a.Rollout.Phase, a.Rollout.Problem, a.Rollout.Waiting = PhaseFailed, why, nil
	outcome := "nothing serves"
	switch {
	case a.Current == nil:
	case len(p.frontend(a).Endpoints) > 0:
		outcome = "the revision before goes on serving"
	default:
		outcome = "the revision before stays, but none of its instances serves"
	}
	if a.Current != nil && !a.Rollout.StoppedAt.IsZero() {
		outcome = "the revision before is started again"
	}
	p.event(a, nil, true, "deployment_failed", "%s; %s", plain.Reason(why), outcome)
}

// late is the problem of a deployment that ran out of time.
func (p *planner) late(a *App) *problem.Error {
	if w := a.Rollout.Waiting; w != nil {
		return gaveUp(w, p.limits.Deadline)
	}
	return problem.New(problem.Unavailable, ruleDeadline, "step %q was not done when the deployment's %s were over", a.Rollout.Phase, problem.Duration(p.limits.Deadline)).
		Fix("see what held it with cupel events %s, then deploy once more, which has as long again", a.Name)
}

// hopeless says that the deployment should stop waiting for the instance.
func (p *planner) hopeless(in *Replica) bool {
	if in.Failures == 0 || in.Problem == nil {
		return false
	}
	if in.Problem.Kind == problem.Conflict || waits(in.Problem) {
		return false // somebody else's lease or place: it ends
	}
	return definite(in.Problem) || in.Problem.Rule == problem.RuleAppEnded || in.Failures >= p.limits.MaxFailures
}

// trouble is what an instance that isn't up yet is trying again after: what it
// waits for itself, or why it ended last.
func (p *planner) trouble(in *Replica) *problem.Error {
	s, there := p.seen(in)
	if there && s.Problem != nil && (s.State == StateStarting && !ending(s.Phase) || s.State == StateRunning && !s.ready()) {
		return s.Problem
	}
	if in.Failures > 0 {
		return in.Problem
	}
	if waits(in.Problem) && (!there || s.State != StateRunning) {
		return in.Problem
	}
	return nil
}

// ending says that an instance has come to its end and is about to exit. What it says
// then is judged with its exit, and nothing is tried again before.
func ending(phase string) bool {
	return phase == string(wire.Exited) || phase == string(wire.Refused)
}

func (p *planner) newest(a *App, role Role) *Replica {
	var out *Replica
	for _, in := range p.of(a.ID) {
		if in.Role == role && a.Next != nil && in.Revision == a.Next.Number {
			out = in
		}
	}
	return out
}

func (p *planner) create(a *App, role Role, n int) {
	prefix := "i"
	if role == RolePull {
		prefix = "pull"
	}
	for range n {
		in := &Replica{ID: p.newID(prefix), App: a.ID, Role: role, Revision: a.Next.Number, Attempt: 1, CreatedAt: p.now}
		if role == RoleApp {
			in.Writes = a.Next.Writes
		}
		p.instances[in.ID], p.changed[a.ID] = in, true
		p.created[a.ID] = append(p.created[a.ID], in)
	}
}

func (p *planner) advance(a *App, to Phase) {
	a = p.edit(a)
	a.Rollout.Phase, a.Rollout.Waiting = to, nil
}

// waiting shows what a deployment is trying again after.
func (p *planner) waiting(a *App, why *problem.Error) {
	was := p.app(a.ID).Rollout.Waiting
	if was == why || was != nil && why != nil && was.Error() == why.Error() {
		return
	}
	p.edit(a).Rollout.Waiting = why
}

func (p *planner) step(a *App, name string) *managerapi.Step {
	for i := range a.Rollout.Steps {
		if a.Rollout.Steps[i].Name == name {
			return &a.Rollout.Steps[i]
		}
	}
	return nil
}

func (p *planner) begin(a *App, name string, of int) {
	if p.step(p.app(a.ID), name) == nil {
		a = p.edit(a)
		a.Rollout.Steps = append(a.Rollout.Steps, managerapi.Step{Name: name, StartedAt: p.now, Of: of})
	}
}

func (p *planner) finish(a *App, name string) {
	if s := p.step(p.app(a.ID), name); s != nil && s.EndedAt.IsZero() {
		s = p.step(p.edit(a), name)
		s.EndedAt, s.Done = p.now, s.Of
	}
}

// count shows that done of n instances passed a step; the last one ends it.
func (p *planner) count(a *App, name string, done, n int) {
	p.begin(a, name, n)
	if s := p.step(p.app(a.ID), name); s.Done != done && s.EndedAt.IsZero() {
		p.step(p.edit(a), name).Done = done
	}
	if done == n {
		p.finish(a, name)
	}
}

// attested says that the CAS released to the instance, as far as it says.
func (s InstanceStatus) attested() bool { return !s.InstanceID.IsZero() || s.State == StateRunning }

// ready says that the instance may take connections.
func (s InstanceStatus) ready() bool {
	return s.State == StateRunning && s.Health == HealthHealthy && s.IP.IsValid()
}

// withoutGrant is a revision that is kept for people to look at.
func (r *Revision) withoutGrant() *Revision {
	if r == nil {
		return nil
	}
	c := *r
	c.Grant = nil
	return &c
}
