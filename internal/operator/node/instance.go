package node

import (
	"net/netip"
	"sync"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/wire"
)

// instance is one row of the node's table. What guards a field stands above it; the
// channels need no guard.
type instance struct {
	op   sync.Mutex // held over a whole operation on the instance
	save sync.Mutex // orders the writes of its record; taken before Node.mu

	// Guarded by op.
	watched bool // its goroutines run
	offline bool // it ended, and its address was given back

	// Guarded by Node.mu.
	rec      *record
	socket   *nodeSocket
	unwatch  func() // ends the goroutines that watch it
	pending  bool   // to be taken over from an earlier process, or to be removed
	removing bool   // its end needs no record

	// How it is, guarded by Node.mu.
	health       manager.Health
	judge        healthJudge
	suspended    bool       // the app's processes were stopped by a signal
	elsewhere    *misplaced // where the app listens instead of on its port; nil: not known to
	lookedAround time.Time  // when that was looked for last
	memoryUsed   uint64
	oom          bool      // the runtime said that a process was killed for want of memory
	missingSince time.Time // since when the runtime doesn't know it, though processes of it run

	// How it ends, guarded by Node.mu.
	stopping     bool
	graceEnds    time.Time // with stopping: when the app's time is over
	killed       bool      // by Stop, since it did not end in time
	lastProgress time.Time // when its launcher last reported or sent a part of a volume
	pushing      int       // volumes of its on their way to durable storage

	exited chan struct{} // closed when rec.Exit is set
	silent chan struct{} // closed a while after exited, or when removed: no more output
}

func newInstance(r *record) *instance {
	i := &instance{
		rec:     r,
		unwatch: func() {},
		exited:  make(chan struct{}),
		silent:  make(chan struct{}),
	}
	if r.Exit != nil {
		close(i.exited)
		close(i.silent)
	}
	return i
}

// status is the manager's view; Node.mu is held.
func (i *instance) status() manager.InstanceStatus {
	r := i.rec
	s := manager.InstanceStatus{
		ID:         r.Spec.ID,
		App:        r.Spec.App,
		Labels:     r.Spec.Labels,
		State:      manager.StateStarting,
		Phase:      string(r.Report.Phase),
		Problem:    r.Report.Problem,
		InstanceID: r.Report.InstanceID,
		IP:         r.IP,
		Health:     i.health,
		Memory:     r.Spec.Memory,
		MemoryUsed: i.memoryUsed,
		CreatedAt:  r.CreatedAt,
		StartedAt:  r.StartedAt,
	}
	if r.Report.CertificateUntil != 0 {
		s.CertificateSince = r.CertificateSince
		s.CertificateUntil = time.Unix(r.Report.CertificateUntil, 0).UTC()
	}

	switch {
	case r.Exit != nil:
		s.State = manager.StateExited
		s.ExitCode = r.Exit.Code
		s.ExitedAt = r.Exit.At
		s.OOMKilled = r.Exit.OOM
		s.Health = manager.HealthUnknown
		s.MemoryUsed = 0
		s.IP = netip.Addr{} // another may have it by now
		// Why it was killed says more than that nothing of it was kept.
		if p := r.Exit.problem(r.Spec.Memory); p != nil && (s.Problem == nil || s.Problem.Rule == wire.RuleNotCommitted) {
			s.Problem = p
		}

	case i.stopping, r.Report.Phase == wire.Stopping:
		s.State = manager.StateStopping

	case r.Report.Phase == wire.Running:
		s.State = manager.StateRunning
		if s.Problem == nil && i.suspended && i.health != manager.HealthHealthy {
			s.Problem = appSuspended()
		}
		if s.Problem == nil && i.elsewhere != nil && i.health != manager.HealthHealthy {
			s.Problem = i.elsewhere.problem()
		}
	}
	return s
}

// problem explains an end that the launcher could not explain itself.
func (e *exit) problem(memory uint64) *problem.Error {
	switch {
	case e.OOM:
		return problem.New(problem.Unavailable, problem.RuleOutOfMemory, "the instance was killed: it needed more than its memory limit of %d bytes", memory).
			Fix("deploy with a larger --memory")
	case e.Killed:
		return problem.New(problem.Unavailable, wire.RuleNotCommitted, "the instance did not end in time and was killed: nothing that it wrote into volumes is kept").
			Fix("see what its app does when it is told to end; cupel up --grace gives it more time")
	case e.Lost:
		return problem.New(problem.Unavailable, manager.RuleNodeRestarted, "the instance went down with its machine or its containers")
	}
	return nil
}

// orders is what the node answers to a report: how much of the time to end is left.
// Node.mu is held.
func (i *instance) orders() wire.Orders {
	if !i.stopping {
		return wire.Orders{}
	}
	return wire.Orders{GraceMillis: max(1, time.Until(i.graceEnds).Milliseconds())}
}

// report takes the launcher's word; it returns whether anything changed.
// Node.mu is held.
func (i *instance) report(s wire.Status, now time.Time) bool {
	r := i.rec
	i.lastProgress = time.Now()

	// A report says no more than the launcher knows then: what it leaves out stays.
	if s.InstanceID.IsZero() {
		s.InstanceID = r.Report.InstanceID
	}
	if s.CertificateUntil == 0 {
		s.CertificateUntil = r.Report.CertificateUntil
	}

	if s.Phase == wire.Running && r.StartedAt.IsZero() {
		r.StartedAt = now
	}
	if s.CertificateUntil != r.Report.CertificateUntil {
		r.CertificateSince = now.UTC() // by the clock on the wall, as the certificate itself
	}

	changed := r.Report.Phase != s.Phase || r.Report.InstanceID != s.InstanceID ||
		r.Report.CertificateUntil != s.CertificateUntil || s.Problem != nil
	r.Report = s
	return changed
}
