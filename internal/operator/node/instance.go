package node

import (
	"net/netip"
	"sync"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/wire"
)

// instance is one row of the node's table. Its fields are guarded by Node.mu,
// but op, which is held over a whole operation on the instance, and the
// channels.
type instance struct {
	op   sync.Mutex
	save sync.Mutex // orders the writes of its record; taken before Node.mu

	rec       *record
	socket    *nodeSocket
	stopping  bool
	killed    bool      // by Stop, since it did not end in time
	graceEnds time.Time // with stopping: when the app's time is over
	moved     time.Time // when its launcher last reported or sent a part of a volume
	pushing   int       // volumes of its on their way to durable storage
	removing  bool      // its end needs no record
	pending   bool      // to be taken over from an earlier process, or to be removed
	watched   bool      // guarded by op: its goroutines run
	offline   bool      // guarded by op: it ended, and its address was given back
	health    manager.Health
	judge     healthJudge
	stopped   bool       // the app's processes were, by a signal
	elsewhere *misplaced // where the app listens instead of on its port; nil: not known to
	looked    time.Time  // when that was looked for last
	used      uint64
	oom       bool          // the runtime said so
	missing   time.Time     // since when the runtime doesn't know it, though processes of it run
	exited    chan struct{} // closed when rec.Exit is set
	gone      chan struct{} // closed a while after exited, or when removed: no more output
	stop      func()        // ends the goroutines that watch it
}

func newInstance(r *record) *instance {
	i := &instance{rec: r, exited: make(chan struct{}), gone: make(chan struct{}), stop: func() {}}
	if r.Exit != nil {
		close(i.exited)
		close(i.gone)
	}
	return i
}

// status is the manager's view; Node.mu is held.
func (i *instance) status() manager.InstanceStatus {
	r := i.rec
	s := manager.InstanceStatus{
		ID: r.Spec.ID, App: r.Spec.App, Labels: r.Spec.Labels,
		State: manager.StateStarting, Phase: string(r.Report.Phase), Problem: r.Report.Problem,
		InstanceID: r.Report.InstanceID, IP: r.IP, Health: i.health,
		Memory: r.Spec.Memory, MemoryUsed: i.used, CreatedAt: r.CreatedAt, StartedAt: r.StartedAt,
	}
	if r.Report.CertificateUntil != 0 {
		s.CertificateSince, s.CertificateUntil = r.CertificateSince, time.Unix(r.Report.CertificateUntil, 0).UTC()
	}
	switch {
	case r.Exit != nil:
		s.State, s.ExitCode, s.ExitedAt, s.OOMKilled = manager.StateExited, r.Exit.Code, r.Exit.At, r.Exit.OOM
		s.Health, s.MemoryUsed, s.IP = manager.HealthUnknown, 0, netip.Addr{} // another may have it by now
		// Why it was killed says more than that nothing of it was kept.
		if p := r.Exit.problem(r.Spec.Memory); p != nil && (s.Problem == nil || s.Problem.Rule == wire.RuleNotCommitted) {
			s.Problem = p
		}
	case i.stopping, r.Report.Phase == wire.Stopping:
		s.State = manager.StateStopping
	case r.Report.Phase == wire.Running:
		s.State = manager.StateRunning
		if s.Problem == nil && i.stopped && i.health != manager.HealthHealthy {
			s.Problem = appStopped()
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
	i.moved = time.Now()
	if s.InstanceID.IsZero() {
		s.InstanceID = r.Report.InstanceID
	}
	if s.Phase == wire.Running && r.StartedAt.IsZero() {
		r.StartedAt = now
	}
	if s.CertificateUntil == 0 {
		s.CertificateUntil = r.Report.CertificateUntil
	}
	if s.CertificateUntil != r.Report.CertificateUntil {
		r.CertificateSince = now.UTC() // by the clock on the wall, as the certificate itself
	}
	changed := r.Report.Phase != s.Phase || r.Report.InstanceID != s.InstanceID ||
		r.Report.CertificateUntil != s.CertificateUntil || s.Problem != nil
	r.Report = s
	return changed
}
