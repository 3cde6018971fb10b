package manager

import (
	"cmp"
	"slices"
	"time"

	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/plain"
	"cupel.dev/cupel/internal/trusted/wire"
)

// planInstance takes the next step for one instance: start it, judge its end,
// start it again after a back-off, or clear it away.
func (p *planner) planInstance(a *App, in *Replica) {
	rev := revision(a, in)
	switch {
	case p.gone[in.ID]:
	case in.Removing || in.Done && in.Revision < a.Last:
		p.discard(a, in)
	case in.Done:
		p.rest(a, in)
	case rev == nil:
		p.discard(a, in)
	case p.endsEarlier(a, in):
	case a.standsBack(in):
		p.hold(a, in)
	case in.Renewing:
		p.renew(a, in)
	default:
		p.keepRunning(a, rev, in)
	}
}

// rest keeps what ended where its logs can be read.
func (p *planner) rest(a *App, in *Replica) {
	s, ok := p.seen(in)
	switch {
	case ok && s.State != StateExited:
		p.end(a, in, s)
	case ok && in.Recorded < in.Attempt:
		in = p.ended(a, in, s)
	}
	p.dropAttempt(a, in, in.Attempt-1)
}

// discard stops the instance, removes it, and forgets it once it is gone.
func (p *planner) discard(a *App, in *Replica) {
	left := p.dropAttempt(a, in, in.Attempt-1)
	left = p.dropAttempt(a, in, in.Attempt) || left
	if left {
		return
	}
	p.gone[in.ID], p.changed[in.App] = true, true
	p.change.DeleteReplicas = append(p.change.DeleteReplicas, in.ID)
	if in.Role == RoleApp {
		p.event(a, in, false, "instance_removed", "instance removed")
	}
}

// dropAttempt stops one attempt, takes note of its end, removes it from the
// Backend, and says whether it is still there, or may be.
func (p *planner) dropAttempt(a *App, in *Replica, attempt int) bool {
	id := backendID(in, attempt)
	s, there := p.observed[id]
	if !there {
		return p.busy[id]
	}
	if s.State != StateExited {
		p.end(a, in, s)
		return true
	}
	if attempt == in.Attempt && in.Recorded < attempt {
		p.ended(a, in, s)
	}
	p.act(action{key: id, drop: id})
	return true
}

// endsEarlier stops the attempt before the newest one where it still runs, as after
// the end of a manager that could stop nothing any more, and says whether the newest
// has to wait for that. One that ended is kept for its log.
func (p *planner) endsEarlier(a *App, in *Replica) bool {
	id := backendID(in, in.Attempt-1)
	s, there := p.observed[id]
	switch {
	case !there:
		return false
	case s.State == StateExited:
		if in.Recorded < in.Attempt-1 {
			p.ended(a, in, s)
		}
		return false
	}

	p.act(action{key: id, stop: id})
	_, started := p.seen(in)
	return !started && (len(in.Writes) > 0 || p.stuck[id] == "")
}

// standsBack says that the instance is of the revision that serves, and is kept
// stopped while the next one, which writes the same volume, is tried.
func (a *App) standsBack(in *Replica) bool {
	r := &a.Rollout
	trying := r.Phase == PhaseStop || r.Phase == PhaseStart || r.Phase == PhaseSwitch
	return trying && !r.StoppedAt.IsZero() && a.Next != nil && a.Current != nil && in.Role == RoleApp && in.Revision == a.Current.Number
}

// hold stops the instance without forgetting it: its next attempt waits.
func (p *planner) hold(a *App, in *Replica) {
	s, there := p.seen(in)
	switch {
	case !there || p.busy[s.ID]:
	case s.State != StateExited:
		p.act(action{key: s.ID, stop: s.ID})
	case in.Recorded < in.Attempt:
		in = p.ended(a, in, s)
		in.ExitCode, in.OOM, in.Problem = s.ExitCode, s.OOMKilled, s.Problem
		in.Attempt++
		in.Failures, in.NotBefore = 0, time.Time{}
	}
}

// alone says that no other instance of the app runs. Of a service that writes a
// volume only one may: the CAS would refuse the second.
func (p *planner) alone(a *App, in *Replica) bool {
	return !slices.ContainsFunc(p.of(a.ID), func(other *Replica) bool {
		return other.ID != in.ID && other.Role == RoleApp && p.up(other)
	})
}

// leaveStopped doesn't start an instance of a revision from before there were
// grants: the CAS would refuse it, and its launcher may be none of that time.
func (p *planner) leaveStopped(a *App, in *Replica) {
	if in.Problem != nil && in.Problem.Rule == ruleGrantMissing {
		return
	}
	p.editInstance(in).Problem = problem.New(problem.Denied, ruleGrantMissing, "revision %d was deployed before there were grants: it is not started again", in.Revision).
		Fix("its owner has to deploy it once: %s", managerapi.DeployCommand(a.Session, a.Name))
}

// keepRunning starts what isn't there and judges what ended.
func (p *planner) keepRunning(a *App, rev *Revision, in *Replica) {
	id := backendID(in, in.Attempt)
	s, there := p.observed[id]
	switch {
	case p.busy[id]:
	case !there && p.startErrors[id] != nil:
		in = p.editInstance(in)
		in.Recorded, in.ExitCode, in.OOM, in.Problem = in.Attempt, 0, false, p.startErrors[id]
		p.again(a, in)
	case !there && rev == a.Current && a.unasked():
		p.leaveStopped(a, in)
	case !there && p.now.Before(in.NotBefore):
		if pause := p.pauseOf(in); in.NotBefore.Sub(p.now) > pause { // stored before the clock was set back
			in = p.editInstance(in)
			in.NotBefore = p.now.Add(pause)
		}
		p.wakeAt(in.NotBefore)
	case !there && len(rev.Writes) > 0 && in.Role == RoleApp && !p.alone(a, in):
		// The end of the other is an event, which brings us here again.
	case !there:
		sp := spec(a, rev, in)
		p.wanted[sp.Image] = true
		if p.images[sp.Image].ready {
			p.mayStart(a, in, action{key: id, start: sp})
		}
	case s.State == StateExited:
		p.judge(a, in, s)
	case in.Failures > 0 && s.State == StateRunning && !s.StartedAt.IsZero():
		if settled := s.StartedAt.Add(p.limits.Settled); p.now.Before(settled) {
			p.wakeAt(settled)
		} else {
			p.editInstance(in).Failures = 0
		}
	}
}

// judge takes note of an attempt's end, once, and plans the next attempt.
func (p *planner) judge(a *App, in *Replica, s InstanceStatus) {
	if in.Recorded >= in.Attempt {
		return
	}
	in = p.ended(a, in, s)
	in.ExitCode, in.OOM, in.Problem = s.ExitCode, s.OOMKilled, p.withWhoToAsk(endOf(in, s))
	if in.Role == RolePull && in.Problem != nil && in.Problem.Rule == problem.RuleGrantUsed {
		in.Problem = nil // it ran before, and nobody was here to see it
		in.Done = true
		return
	}
	if in.Role == RolePull && s.ExitCode == 0 && in.Problem == nil {
		in.Done = true
		return
	}
	if s.OOMKilled {
		p.event(a, in, true, "instance_out_of_memory", "killed: it needed more than its limit of memory")
	}
	p.again(a, in)
}

// ownersPause lies between attempts that the CAS will refuse until the app's owner
// has done something, as good as always by another deployment.
const ownersPause = time.Hour

// again plans the next attempt after a failure.
func (p *planner) again(a *App, in *Replica) {
	p.dropAttempt(a, in, in.Attempt-1)
	if !waits(in.Problem) {
		in.Restarts++
	}
	if !waits(in.Problem) && !ofTheMachine(in.Problem) {
		in.Failures++
	}
	in.Attempt++
	wait := p.pauseOf(in)
	in.NotBefore = p.now.Add(wait)
	if rollingOut(a, in) && p.hopeless(in) {
		return // the deployment fails in the next pass, and says why
	}
	p.wakeAt(in.NotBefore)
	if ownersTask(in.Problem) {
		p.askOwner(a, plain.Reason(in.Problem))
		return
	}
	if waits(in.Problem) {
		p.event(a, in, false, "instance_waiting", "%s", plain.Reason(in.Problem))
		return
	}
	p.event(a, in, true, "instance_restarting", "%s; starting it again in %s", in.Problem.Actual, problem.Duration(wait))
}

// RuleNodeRestarted is the end of an instance that went down with its machine, or with
// what carries it there.
const RuleNodeRestarted problem.Rule = "node_restarted"

// ofTheMachine says that an instance did nothing for its end: it says nothing about how
// the next attempt will go.
func ofTheMachine(p *problem.Error) bool {
	return p != nil && (p.Rule == RuleNodeRestarted || p.Rule == ruleInstanceLost)
}

// askAgain has what the CAS refused, and only an owner can mend as far as is known here,
// tried once at the start of a manager: the operator may have put back a CAS that knows
// the grant.
func (s *State) askAgain() {
	for _, in := range s.Replicas {
		if ownersTask(in.Problem) {
			in.NotBefore = time.Time{}
		}
	}
}

// pauseOf is how long lies between the instance's last failure and its next attempt.
func (p *planner) pauseOf(in *Replica) time.Duration {
	if ownersTask(in.Problem) {
		return ownersPause // nothing that happens here mends it
	}
	return backoff(p.limits, in.Failures)
}

func rollingOut(a *App, in *Replica) bool {
	return a.Rollout.active() && a.Next != nil && a.Next.Number == in.Revision
}

func backoff(l Limits, failures int) time.Duration {
	d := l.BackoffMin
	for range failures - 1 {
		if d *= 2; d >= l.BackoffMax {
			return l.BackoffMax
		}
	}
	return d
}

// endOf says why an attempt ended; nil for a job that succeeded.
func endOf(in *Replica, s InstanceStatus) *problem.Error {
	switch {
	case s.OOMKilled:
		return problem.New(problem.Invalid, problem.RuleOutOfMemory, "killed for using more than its limit of memory").
			Fix("deploy with more --memory")
	case s.Problem != nil && !pullSaysMore(in, s):
		return s.Problem
	case in.Role == RolePull && s.ExitCode == 0:
		return nil
	case in.Role == RolePull:
		return pullProblem(s.ExitCode)
	}
	if s.ExitCode == 0 {
		return problem.New(problem.Unavailable, problem.RuleAppEnded, "the app ended by itself, with code 0: what is deployed is meant to go on").
			Fix("let the session's command be a server that stays in the foreground; if it was a job, it is done: read 'cupel logs %s'", in.ID)
	}
	return problem.New(problem.Unavailable, problem.RuleExited, "the app ended with code %d", s.ExitCode).
		Fix("read 'cupel logs %s'", in.ID)
}

// pullSaysMore says that a pull's exit code tells why nothing was stored better
// than that nothing was.
func pullSaysMore(in *Replica, s InstanceStatus) bool {
	return in.Role == RolePull && s.Phase == string(wire.Exited) && s.Problem.Rule == wire.RuleNotCommitted
}

// definite says that trying again can't help, or has been done already.
func definite(e *problem.Error) bool {
	if e.Rule == problem.RulePullSilent || e.Rule == problem.RulePullBusy {
		return true
	}
	switch e.Kind {
	case problem.Invalid, problem.Denied, problem.NotFound, problem.Unauthenticated:
		return true
	}
	return false
}

// tellHealth tells when the last instance that accepted connections doesn't any more,
// though all go on running, and when one does again. Ends of instances are told by
// themselves.
func (p *planner) tellHealth(a *App) {
	if a.Current == nil {
		return
	}
	var running, unhealthy int
	var why *problem.Error
	for _, in := range p.of(a.ID) {
		s, ok := p.seen(in)
		if !ok || in.Role != RoleApp || in.Revision != a.Current.Number || s.State != StateRunning {
			continue
		}
		running++
		if s.Health == HealthUnhealthy {
			unhealthy++
			why = cmp.Or(why, s.Problem)
		}
	}
	switch {
	case running == 0 || (unhealthy == running) == a.Unhealthy:
	case a.Unhealthy && !slices.ContainsFunc(p.of(a.ID), func(in *Replica) bool {
		s, _ := p.seen(in)
		return in.Revision == a.Current.Number && s.ready()
	}):
	case a.Unhealthy:
		p.edit(a).Unhealthy = false
		p.event(a, nil, false, "app_healthy", "instances accept connections again")
	default:
		p.edit(a).Unhealthy = true
		text := "'cupel ps' says why, as far as it is known, and 'cupel check' on the machine whether that can't reach them"
		if why != nil {
			text = why.Error()
		}
		p.event(a, nil, true, "app_unhealthy", "no instance accepts connections any more, though %d run: %s", running, text)
	}
}
