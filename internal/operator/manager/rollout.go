package manager

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
	"cupel.dev/cupel/internal/wording"
)

// rollout takes the next step of the app's deployment. Each phase waits for its end and
// begins the next one.
func (p *planner) rollout(a *App) {
	p.boundTimes(a)
	a = p.app(a.ID)
	roll := &a.Rollout

	// Nothing ends a deployment any more whose revision serves.
	if roll.Phase != PhaseDrain {
		if !p.now.Before(roll.Deadline) {
			p.fail(a, p.tooLate(a))
			return
		}
		p.wakeAt(roll.Deadline)
	}

	switch roll.Phase {
	case PhaseImages:
		p.awaitImages(a)
	case PhasePull:
		p.awaitPull(a)
	case PhaseStop:
		p.awaitStop(a)
	case PhaseStart:
		p.awaitStart(a)
	case PhaseSwitch:
		p.awaitSwitch(a)
	case PhaseDrain:
		p.awaitDrain(a)
	}
}

// boundTimes keeps the rollout's times within its limits, also where the clock was set
// back since they were stored.
func (p *planner) boundTimes(a *App) {
	latest := p.now.Add(p.limits.Deadline)
	if a.Rollout.Deadline.After(latest) {
		p.editApp(a).Rollout.Deadline = latest
	}
	if a.Rollout.StoppedAt.After(p.now) {
		p.editApp(a).Rollout.StoppedAt = p.now
	}
	for i, s := range a.Rollout.Steps {
		if s.EndedAt.IsZero() && s.StartedAt.After(p.now) {
			p.editApp(a).Rollout.Steps[i].StartedAt = p.now
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

// awaitImages waits for both images, with the public port already held.
func (p *planner) awaitImages(a *App) {
	if e := p.balance.failed[a.Next.Port]; e != nil {
		p.fail(a, e)
		return
	}
	p.beginStep(a, managerapi.StepImages, 0)

	for _, ref := range []ident.ImageRef{a.Next.PullImage, a.Next.Image} {
		p.wanted[ref] = true
		image := p.images[ref]
		if image.ready {
			continue
		}
		if image.problem != nil && (definite(image.problem) || image.failures > p.limits.MaxFailures) {
			p.fail(a, image.problem)
		} else {
			p.noteWaiting(a, image.problem)
		}
		return
	}
	if !p.balance.known || !p.balancerHas(a.Next.Port) {
		return // the port comes before anything is started
	}

	p.finishStep(a, managerapi.StepImages)
	p.beginPull(a)
}

func (p *planner) beginPull(a *App) {
	p.enterPhase(a, PhasePull)
	p.createReplicas(a, RolePull, 1)
	p.beginStep(a, managerapi.StepPull, 0)
	p.note(a, nil, "pulling", "pulling the repository inside, as %s/%s", a.Next.Session, a.Next.PullService)
}

// awaitPull waits for the job that fills the volume.
func (p *planner) awaitPull(a *App) {
	job := p.newestReplica(a, RolePull)
	if job == nil { // its record was lost with a failed write: make it again
		p.createReplicas(a, RolePull, 1)
		return
	}

	if s, ok := p.newestAttempt(job); ok && s.State == StateExited && !job.Done {
		p.judge(a, job, s)
		job = p.newestReplica(a, RolePull)
	}
	if !job.Done {
		if p.hopeless(job) {
			p.fail(a, job.Problem)
			return
		}
		p.noteWaiting(a, p.obstacle(job))
		return
	}

	p.finishStep(a, managerapi.StepPull)
	if len(a.Next.Writes) > 0 && a.Current != nil {
		p.beginStop(a)
		return
	}
	p.beginStart(a)
}

// beginStop begins to stop the revision before, as the next one writes a volume
// and the CAS releases to one writer at a time.
func (p *planner) beginStop(a *App) {
	p.enterPhase(a, PhaseStop)
	p.beginStep(a, managerapi.StepStop, 0)
	a = p.editApp(a)
	if a.Rollout.StoppedAt.IsZero() {
		a.Rollout.StoppedAt = p.now
	}
	p.note(a, nil, "stopping", "stopping revision %d: the app writes volume %s, which has one writer; nothing serves until revision %d does",
		a.Current.Number, strings.Join(a.Next.Writes, ", "), a.Next.Number)
}

// awaitStop waits until the revision before has ended, and stored what it wrote.
func (p *planner) awaitStop(a *App) {
	if p.revisionRuns(a, a.Current.Number) {
		return
	}
	p.finishStep(a, managerapi.StepStop)
	p.beginStart(a)
}

func (p *planner) beginStart(a *App) {
	p.enterPhase(a, PhaseStart)
	p.createReplicas(a, RoleApp, a.Next.Instances)
	p.beginStep(a, managerapi.StepStart, a.Next.Instances)
	p.note(a, nil, "starting", "starting %s", problem.Count(a.Next.Instances, "instance"))
}

// awaitStart waits until every new instance started, attested and is healthy.
func (p *planner) awaitStart(a *App) {
	var started, attested, healthy int
	var trouble *problem.Error
	for _, r := range p.replicasOf(a.ID) {
		if r.Revision != a.Next.Number || r.Role != RoleApp {
			continue
		}
		if p.hopeless(r) {
			p.fail(a, r.Problem)
			return
		}
		if why := p.obstacle(r); why != nil {
			trouble = why
		}

		s, ok := p.newestAttempt(r)
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

	// Of the three steps each begins when the one before has ended.
	n := a.Next.Instances
	p.countStep(a, managerapi.StepStart, started, n)
	if started == n {
		p.countStep(a, managerapi.StepAttest, attested, n)
	}
	if started == n && attested == n {
		p.countStep(a, managerapi.StepHealth, healthy, n)
	}
	p.noteWaiting(a, trouble)

	if healthy < n {
		p.boundHealth(a)
		return
	}
	p.enterPhase(a, PhaseSwitch)
	p.beginStep(a, managerapi.StepSwitch, 0)
}

// boundHealth gives up on instances that run and never accept connections.
func (p *planner) boundHealth(a *App) {
	s := p.rolloutStep(p.app(a.ID), managerapi.StepHealth)
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

// awaitSwitch waits until the balancer leads to the new instances. From then on the next
// revision is the one that serves.
func (p *planner) awaitSwitch(a *App) {
	if e := p.balance.failed[a.Next.Port]; e != nil {
		p.fail(a, e)
		return
	}
	want := p.frontend(p.app(a.ID))
	if !p.balance.known || !slices.ContainsFunc(p.applied.apps[a.ID], func(f Frontend) bool { return sameFrontend(f, want) }) {
		return
	}
	p.finishStep(a, managerapi.StepSwitch)

	a = p.editApp(a)
	first := a.Current == nil
	a.releaseGrant(a.Current)
	a.Current = a.Next
	a.Next = nil
	a.OwnerAsked = false

	gap := ""
	if !a.Rollout.StoppedAt.IsZero() {
		a.Rollout.Gap = p.now.Sub(a.Rollout.StoppedAt)
		a.Rollout.StoppedAt = time.Time{}
		gap = fmt.Sprintf("; nothing served for %s", problem.Duration(a.Rollout.Gap.Round(time.Millisecond)))
	}
	if !first && p.limits.Drain > 0 && gap == "" {
		gap = fmt.Sprintf("; connections to the revision before have up to %s to end", problem.Duration(p.limits.Drain))
	}
	p.note(a, nil, "switched", "port %d leads to revision %d%s", a.Current.Port, a.Current.Number, gap)

	if first {
		p.succeed(a)
		return
	}
	p.enterPhase(a, PhaseDrain)
	p.beginStep(a, managerapi.StepDrain, 0)
}

// awaitDrain waits until the instances of the revision before are gone; planReplica
// discards them, as no revision claims them any more.
func (p *planner) awaitDrain(a *App) {
	for _, r := range p.replicasOf(a.ID) {
		if r.Revision != a.Current.Number && !r.Done {
			return
		}
	}
	p.finishStep(a, managerapi.StepDrain)
	p.succeed(p.editApp(a))
}

// succeed ends the deployment well.
func (p *planner) succeed(a *App) {
	p.enterPhase(a, PhaseDone)
	p.note(a, nil, "deployed", "revision %d serves on port %d with %s", a.Current.Number, a.Current.Port, problem.Count(a.Current.Instances, "instance"))
}

// fail ends the deployment. What served before goes on serving; the new
// instances stop, and the newest of them stay where their logs can be read.
func (p *planner) fail(a *App, why *problem.Error) {
	a = p.editApp(a)
	for _, r := range p.replicasOf(a.ID) {
		if a.Next == nil || r.Revision != a.Next.Number || r.Done {
			continue
		}
		r = p.editReplica(r)
		r.Done = true
		if r.Recorded < r.Attempt { // back to its newest attempt that ran
			if _, there := p.newestAttempt(r); !there && r.Attempt > 1 {
				r.Attempt--
			}
		}
	}

	a.releaseGrant(a.Next)
	a.Lost = a.Next.withoutGrant()
	a.Next = nil
	p.enterPhase(a, PhaseFailed)
	a.Rollout.Problem = why
	p.warn(a, nil, "deployment_failed", "%s; %s", wording.Reason(why), p.whatServes(a))
}

// whatServes says what a failed deployment leaves behind.
func (p *planner) whatServes(a *App) string {
	switch {
	case a.Current == nil:
		return "nothing serves"
	case !a.Rollout.StoppedAt.IsZero():
		return "the revision before is started again"
	case len(p.frontend(a).Endpoints) > 0:
		return "the revision before goes on serving"
	}
	return "the revision before stays, but none of its instances serves"
}

// tooLate is the problem of a deployment that ran out of time.
func (p *planner) tooLate(a *App) *problem.Error {
	if w := a.Rollout.Waiting; w != nil {
		return gaveUp(w, p.limits.Deadline)
	}
	return problem.New(problem.Unavailable, ruleDeadline, "step %q was not done when the deployment's %s were over", a.Rollout.Phase, problem.Duration(p.limits.Deadline)).
		Fix("see what held it with cupel events %s, then deploy once more, which has as long again", a.Name)
}

// gaveUp is the end of a deployment by what it waited for, after so long.
func gaveUp(why *problem.Error, after time.Duration) *problem.Error {
	e := *why
	e.Actual = "gave up after " + problem.Duration(after) + ": " + wording.Met(e.Rule, e.Actual)
	return &e
}

// tellResumed tells for how long nothing served, once the revision that was stopped
// for a failed deployment serves again.
func (p *planner) tellResumed(a *App) {
	roll := &a.Rollout
	if roll.StoppedAt.IsZero() || a.Current == nil || roll.Phase == PhaseStop || roll.Phase == PhaseStart || roll.Phase == PhaseSwitch {
		return
	}
	if f := p.frontend(a); len(f.Endpoints) < a.Current.Instances {
		return
	}

	a = p.editApp(a)
	gap := p.now.Sub(a.Rollout.StoppedAt)
	a.Rollout.StoppedAt = time.Time{}
	a.Rollout.Gap = gap
	p.warn(a, nil, "serving_again", "revision %d serves again; nothing served for %s", a.Current.Number, problem.Duration(gap.Round(time.Millisecond)))
}

// hopeless says that the deployment should stop waiting for the replica.
func (p *planner) hopeless(r *Replica) bool {
	if r.Failures == 0 || r.Problem == nil {
		return false
	}
	if r.Problem.Kind == problem.Conflict || mendsItself(r.Problem) {
		return false // somebody else's lease or turn: it ends
	}
	return definite(r.Problem) || r.Problem.Rule == problem.RuleAppEnded || r.Failures >= p.limits.MaxFailures
}

// obstacle is what a replica that isn't up yet is trying again after: what its attempt
// waits for itself, or why the last one ended.
func (p *planner) obstacle(r *Replica) *problem.Error {
	s, there := p.newestAttempt(r)
	if there && s.Problem != nil && (s.State == StateStarting && !aboutToExit(s.Phase) || s.State == StateRunning && !s.ready()) {
		return s.Problem
	}
	if r.Failures > 0 {
		return r.Problem
	}
	if mendsItself(r.Problem) && (!there || s.State != StateRunning) {
		return r.Problem
	}
	return nil
}

// aboutToExit says that an instance has come to its end and is about to exit. What it says
// then is judged with its exit, and nothing is tried again before.
func aboutToExit(phase string) bool {
	return phase == string(wire.Exited) || phase == string(wire.Refused)
}

// newestReplica is the newest of a role in the next revision; nil if there is none.
func (p *planner) newestReplica(a *App, role Role) *Replica {
	var out *Replica
	for _, r := range p.replicasOf(a.ID) {
		if r.Role == role && a.Next != nil && r.Revision == a.Next.Number {
			out = r
		}
	}
	return out
}

// createReplicas makes n replicas of the next revision, for planReplica to start.
func (p *planner) createReplicas(a *App, role Role, n int) {
	prefix := "i"
	if role == RolePull {
		prefix = "pull"
	}

	for range n {
		r := &Replica{
			ID:        p.newID(prefix),
			App:       a.ID,
			Role:      role,
			Revision:  a.Next.Number,
			Attempt:   1,
			CreatedAt: p.now,
		}
		if role == RoleApp {
			r.Writes = a.Next.Writes
		}
		p.replicas[r.ID] = r
		p.changed[a.ID] = true
		p.created[a.ID] = append(p.created[a.ID], r)
	}
}

// enterPhase begins a phase, in which nothing is waited for yet.
func (p *planner) enterPhase(a *App, to Phase) {
	a = p.editApp(a)
	a.Rollout.Phase = to
	a.Rollout.Waiting = nil
}

// noteWaiting shows what a deployment is trying again after.
func (p *planner) noteWaiting(a *App, why *problem.Error) {
	was := p.app(a.ID).Rollout.Waiting
	if was == why || was != nil && why != nil && was.Error() == why.Error() {
		return
	}
	p.editApp(a).Rollout.Waiting = why
}

// rolloutStep is the step of that name, to be changed in place; nil if it hasn't begun.
func (p *planner) rolloutStep(a *App, name string) *managerapi.Step {
	for i := range a.Rollout.Steps {
		if a.Rollout.Steps[i].Name == name {
			return &a.Rollout.Steps[i]
		}
	}
	return nil
}

// beginStep shows that a step has begun, of so many instances where they are counted.
func (p *planner) beginStep(a *App, name string, of int) {
	if p.rolloutStep(p.app(a.ID), name) == nil {
		a = p.editApp(a)
		a.Rollout.Steps = append(a.Rollout.Steps, managerapi.Step{Name: name, StartedAt: p.now, Of: of})
	}
}

func (p *planner) finishStep(a *App, name string) {
	if s := p.rolloutStep(p.app(a.ID), name); s != nil && s.EndedAt.IsZero() {
		s = p.rolloutStep(p.editApp(a), name)
		s.EndedAt = p.now
		s.Done = s.Of
	}
}

// countStep shows that done of n instances passed a step; the last one ends it.
func (p *planner) countStep(a *App, name string, done, n int) {
	p.beginStep(a, name, n)
	if s := p.rolloutStep(p.app(a.ID), name); s.Done != done && s.EndedAt.IsZero() {
		p.rolloutStep(p.editApp(a), name).Done = done
	}
	if done == n {
		p.finishStep(a, name)
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
