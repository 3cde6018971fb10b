package manager

import (
	"cmp"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
	"cupel.dev/cupel/internal/wording"
)

// planReplica takes the next step for one replica: start an attempt, judge its end,
// start another after a back-off, or clear it away.
func (p *planner) planReplica(a *App, r *Replica) {
	rev := revisionToRun(a, r)
	switch {
	case p.deleted[r.ID]:
	case r.Removing || r.Done && r.Revision < a.Last:
		p.discard(a, r)
	case r.Done:
		p.keepForLogs(a, r)
	case rev == nil:
		p.discard(a, r)
	case p.endsEarlier(a, r):
	case a.standsBack(r):
		p.keepStopped(a, r)
	case r.Renewing:
		p.renew(a, r)
	default:
		p.keepRunning(a, rev, r)
	}
}

// keepForLogs keeps what ended where its logs can be read.
func (p *planner) keepForLogs(a *App, r *Replica) {
	s, ok := p.newestAttempt(r)
	switch {
	case ok && s.State != StateExited:
		p.endWhenDrained(a, r, s)
	case ok && r.Recorded < r.Attempt:
		r = p.noteEnd(a, r, s)
	}
	p.dropAttempt(a, r, r.Attempt-1)
}

// discard stops the replica's attempts, removes them, and deletes it once they are gone.
func (p *planner) discard(a *App, r *Replica) {
	left := p.dropAttempt(a, r, r.Attempt-1)
	left = p.dropAttempt(a, r, r.Attempt) || left
	if left {
		return
	}

	p.deleted[r.ID] = true
	p.changed[r.App] = true
	p.change.DeleteReplicas = append(p.change.DeleteReplicas, r.ID)
	if r.Role == RoleApp {
		p.note(a, r, "instance_removed", "instance removed")
	}
}

// dropAttempt stops one attempt, takes note of its end, removes it from the
// Backend, and says whether it is still there, or may be.
func (p *planner) dropAttempt(a *App, r *Replica, attempt int) bool {
	id := attemptID(r, attempt)
	s, there := p.observed[id]
	if !there {
		return p.busy[string(id)]
	}
	if s.State != StateExited {
		p.endWhenDrained(a, r, s)
		return true
	}

	if attempt == r.Attempt && r.Recorded < attempt {
		p.noteEnd(a, r, s)
	}
	p.act(removeAttempt{id})
	return true
}

// endsEarlier stops the attempt before the newest one where it still runs, as after
// the end of a manager that could stop nothing any more, and says whether the newest
// has to wait for that. One that ended is kept for its log.
func (p *planner) endsEarlier(a *App, r *Replica) bool {
	id := attemptID(r, r.Attempt-1)
	s, there := p.observed[id]
	switch {
	case !there:
		return false
	case s.State == StateExited:
		if r.Recorded < r.Attempt-1 {
			p.noteEnd(a, r, s)
		}
		return false
	}

	p.act(stopAttempt{id})
	_, started := p.newestAttempt(r)
	return !started && (len(r.Writes) > 0 || p.uncleared[id] == "")
}

// standsBack says that the replica is of the revision that serves, and is kept
// stopped while the next one, which writes the same volume, is tried.
func (a *App) standsBack(r *Replica) bool {
	roll := &a.Rollout
	trying := roll.Phase == PhaseStop || roll.Phase == PhaseStart || roll.Phase == PhaseSwitch
	stopped := trying && !roll.StoppedAt.IsZero() && a.Next != nil

	return stopped && a.Current != nil && r.Role == RoleApp && r.Revision == a.Current.Number
}

// keepStopped stops the replica without deleting it: its next attempt waits.
func (p *planner) keepStopped(a *App, r *Replica) {
	s, there := p.newestAttempt(r)
	switch {
	case !there || p.busy[string(s.ID)]:
	case s.State != StateExited:
		p.act(stopAttempt{s.ID})
	case r.Recorded < r.Attempt:
		r = p.noteEnd(a, r, s)
		r.setEnd(s.ExitCode, s.OOMKilled, s.Problem)
		r.Attempt++
		r.Failures = 0
		r.NotBefore = time.Time{}
	}
}

// alone says that no other replica of the app runs. Of a service that writes a
// volume only one may: the CAS would refuse the second.
func (p *planner) alone(a *App, r *Replica) bool {
	return !slices.ContainsFunc(p.replicasOf(a.ID), func(other *Replica) bool {
		return other.ID != r.ID && other.Role == RoleApp && p.mayRun(other)
	})
}

// leaveStopped doesn't start a replica of a revision from before there were
// grants: the CAS would refuse it, and its launcher may be none of that time.
func (p *planner) leaveStopped(a *App, r *Replica) {
	if r.Problem != nil && r.Problem.Rule == problem.RuleGrantMissing {
		return
	}

	p.editReplica(r).Problem = problem.New(problem.Denied, problem.RuleGrantMissing, "revision %d was deployed before there were grants: it is not started again", r.Revision).
		Fix("its owner has to deploy it once: %s", managerapi.DeployCommand(a.Session, ident.AppRef(a.Name)))
}

// keepRunning starts what isn't there and judges what ended.
func (p *planner) keepRunning(a *App, rev *Revision, r *Replica) {
	id := attemptID(r, r.Attempt)
	s, there := p.observed[id]
	switch {
	case p.busy[string(id)]:
	case !there:
		p.startWhenDue(a, rev, r)
	case s.State == StateExited:
		p.judge(a, r, s)
	case r.Failures > 0 && s.State == StateRunning && !s.StartedAt.IsZero():
		p.forgive(r, s)
	}
}

// startWhenDue starts the replica's newest attempt, which the Backend doesn't have yet, as
// soon as nothing stands against it.
func (p *planner) startWhenDue(a *App, rev *Revision, r *Replica) {
	startError := p.startErrors[attemptID(r, r.Attempt)]
	switch {
	case startError != nil:
		r = p.editReplica(r)
		r.Recorded = r.Attempt
		r.setEnd(0, false, startError)
		p.tryAgain(a, r)
	case rev == a.Current && a.lacksGrant():
		p.leaveStopped(a, r)
	case p.now.Before(r.NotBefore):
		if pause := p.pauseOf(r); r.NotBefore.Sub(p.now) > pause { // stored before the clock was set back
			r = p.editReplica(r)
			r.NotBefore = p.now.Add(pause)
		}
		p.wakeAt(r.NotBefore)
	case len(rev.Writes) > 0 && r.Role == RoleApp && !p.alone(a, r):
		// The end of the other is an event, which brings us here again.
	default:
		spec := specOf(a, rev, r)
		p.wanted[spec.Image] = true
		if p.images[spec.Image].ready {
			p.mayStart(a, r, startAttempt{spec})
		}
	}
}

// forgive forgets the failures of a replica that runs for long enough.
func (p *planner) forgive(r *Replica, s InstanceStatus) {
	settled := s.StartedAt.Add(p.limits.Settled)
	if p.now.Before(settled) {
		p.wakeAt(settled)
		return
	}
	p.editReplica(r).Failures = 0
}

// judge takes note of an attempt's end, once, and plans the next attempt.
func (p *planner) judge(a *App, r *Replica, s InstanceStatus) {
	if r.Recorded >= r.Attempt {
		return
	}
	r = p.noteEnd(a, r, s)
	r.setEnd(s.ExitCode, s.OOMKilled, p.withWhoToAsk(endOf(r, s)))

	if r.Role == RolePull && r.Problem != nil && r.Problem.Rule == problem.RuleGrantUsed {
		r.Problem = nil // it ran before, and nobody was here to see it
		r.Done = true
		return
	}
	if r.Role == RolePull && s.ExitCode == 0 && r.Problem == nil {
		r.Done = true
		return
	}

	if s.OOMKilled {
		p.warn(a, r, "instance_out_of_memory", "killed: it needed more than its limit of memory")
	}
	p.tryAgain(a, r)
}

// setEnd is how the newest attempt ended.
func (r *Replica) setEnd(code int, oom bool, why *problem.Error) {
	r.ExitCode = code
	r.OOM = oom
	r.Problem = why
}

// tryAgain plans the next attempt after a failure.
func (p *planner) tryAgain(a *App, r *Replica) {
	p.dropAttempt(a, r, r.Attempt-1)

	// Count what it was.
	if !mendsItself(r.Problem) {
		r.Restarts++
	}
	if !mendsItself(r.Problem) && !machinesFault(r.Problem) {
		r.Failures++
	}
	r.Attempt++
	wait := p.pauseOf(r)
	r.NotBefore = p.now.Add(wait)

	// Say what follows.
	if rollingOut(a, r) && p.hopeless(r) {
		return // the deployment fails in the next pass, and says why
	}
	p.wakeAt(r.NotBefore)
	switch {
	case onlyOwnerMends(r.Problem):
		p.askOwner(a, wording.Reason(r.Problem))
	case mendsItself(r.Problem):
		p.note(a, r, "instance_waiting", "%s", wording.Reason(r.Problem))
	default:
		p.warn(a, r, "instance_restarting", "%s; starting it again in %s", r.Problem.Actual, problem.Duration(wait))
	}
}

// ownersPause lies between attempts that the CAS will refuse until the app's owner
// has done something, as good as always by another deployment.
const ownersPause = time.Hour

// pauseOf is how long lies between the replica's last failure and its next attempt.
func (p *planner) pauseOf(r *Replica) time.Duration {
	if onlyOwnerMends(r.Problem) {
		return ownersPause // nothing that happens here mends it
	}
	return backoff(p.limits, r.Failures)
}

func rollingOut(a *App, r *Replica) bool {
	return a.Rollout.active() && a.Next != nil && a.Next.Number == r.Revision
}

// askAgain has what the CAS refused, and only an owner can mend as far as is known here,
// tried once at the start of a manager: the operator may have put back a CAS that knows
// the grant.
func (s *State) askAgain() {
	for _, r := range s.Replicas {
		if onlyOwnerMends(r.Problem) {
			r.NotBefore = time.Time{}
		}
	}
}

// machinesFault says that an instance did nothing for its end: it says nothing about how
// the next attempt will go.
func machinesFault(p *problem.Error) bool {
	return p != nil && (p.Rule == RuleNodeRestarted || p.Rule == ruleInstanceLost)
}

// endOf says why an attempt ended; nil for a job that succeeded.
func endOf(r *Replica, s InstanceStatus) *problem.Error {
	switch {
	case s.OOMKilled:
		return problem.New(problem.Invalid, problem.RuleOutOfMemory, "killed for using more than its limit of memory").
			Fix("deploy with more --memory")
	case s.Problem != nil && !pullSaysMore(r, s):
		return s.Problem
	case r.Role == RolePull && s.ExitCode == 0:
		return nil
	case r.Role == RolePull:
		return pullProblem(s.ExitCode)
	}

	if s.ExitCode == 0 {
		return problem.New(problem.Unavailable, problem.RuleAppEnded, "the app ended by itself, with code 0: what is deployed is meant to go on").
			Fix("let the session's command be a server that stays in the foreground; if it was a job, it is done: read 'cupel logs %s'", r.ID)
	}
	return problem.New(problem.Unavailable, problem.RuleExited, "the app ended with code %d", s.ExitCode).
		Fix("read 'cupel logs %s'", r.ID)
}

// pullSaysMore says that a pull's exit code tells why nothing was stored better
// than that nothing was.
func pullSaysMore(r *Replica, s InstanceStatus) bool {
	return r.Role == RolePull && s.Phase == string(wire.Exited) && s.Problem.Rule == wire.RuleNotCommitted
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
	for _, r := range p.replicasOf(a.ID) {
		s, ok := p.newestAttempt(r)
		if !ok || r.Role != RoleApp || r.Revision != a.Current.Number || s.State != StateRunning {
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
	case a.Unhealthy && !p.anyReady(a):
	case a.Unhealthy:
		p.editApp(a).Unhealthy = false
		p.note(a, nil, "app_healthy", "instances accept connections again")
	default:
		p.editApp(a).Unhealthy = true
		text := "'cupel ps' says why, as far as it is known, and 'cupel check' on the machine whether that can't reach them"
		if why != nil {
			text = why.Error()
		}
		p.warn(a, nil, "app_unhealthy", "no instance accepts connections any more, though %d run: %s", running, text)
	}
}

// anyReady says that an instance of the revision that serves may take connections.
func (p *planner) anyReady(a *App) bool {
	return slices.ContainsFunc(p.replicasOf(a.ID), func(r *Replica) bool {
		s, _ := p.newestAttempt(r)
		return r.Revision == a.Current.Number && s.ready()
	})
}
