package launcher

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

const (
	// DefaultGrace is how long a stopped app may take if the node names no time.
	DefaultGrace = 10 * time.Second
	maxGrace     = time.Hour
	// leftoverGrace is how long what an app left behind may take to end when the
	// app ended by itself.
	leftoverGrace = 10 * time.Second
)

// ending is how an app ended, all of it.
type ending struct {
	status  syscall.WaitStatus // of its first process
	stopped bool               // the stop signal was sent to that process
	killed  bool               // something of the app had to be killed
	grace   time.Duration      // that it had
}

// await returns how the app ended, once nothing of it is left, so that nobody
// writes into a volume any more.
//
// When the app is to end, its first process alone was told: it knows its workers,
// and how to end them. What outlives it is told next, in what is left of the
// grace, and killed after that. So is what an app leaves behind that ended by
// itself, after a grace of its own.
func (l *launcher) await(a *app, sigs *signals) ending {
	var e ending
	var overdue <-chan time.Time

	select {
	case e.status = <-a.ended:
		e.grace = leftoverGrace
	case <-sigs.asked:
		e.grace = l.grace(sigs.refused())
		overdue = time.After(e.grace)
		select {
		case e.status = <-a.ended:
		case <-overdue:
			e.killed = true
			_ = unix.Kill(-1, unix.SIGKILL)
			e.status = <-a.ended
		}
	}
	e.stopped = sigs.hold()

	if overdue == nil {
		overdue = time.After(e.grace)
	}
	if !e.killed {
		_ = unix.Kill(-1, sigs.stop)
		select {
		case <-a.alone:
			return e
		case <-overdue:
			e.killed = true
		}
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	<-a.alone
	return e
}

// grace tells the node that the app ends, why if not by its will, and learns from
// it for how long the host will wait.
func (l *launcher) grace(why *problem.Error) time.Duration {
	orders := l.report(wire.Stopping, 0, why)
	if grace := time.Duration(orders.GraceMillis) * time.Millisecond; grace > 0 && grace <= maxGrace {
		return grace
	}
	return DefaultGrace
}

// kept judges whether what the app wrote is kept: nil, or why not. A job ended
// well with 0 alone. A service also by the stop signal that it was sent: killed by
// it, or with the code by which shells and some programs say the same. Any other
// code after that signal may say that the app could not write down all it had.
func (e ending) kept(job bool, stop syscall.Signal) *problem.Error {
	code := exitCode(e.status)
	by := exitSignal + int(stop)

	switch {
	case e.killed:
		return notCommitted("the app did not end as a whole within %v and was killed", e.grace).
			Fix("let it end upon %s with all of its processes, or give it longer", unix.SignalName(stop))
	case code == 0, !job && e.stopped && code == by:
		return nil
	case job && e.stopped:
		return notCommitted("the job was stopped and ended with code %d", code).
			Want("0, which says that it was done").
			Fix("run it again")
	}

	p := notCommitted("the app ended with code %d", code).Want("0")
	if !job {
		p = p.Want("0, or %d after it was sent %s", by, unix.SignalName(stop))
	}
	return p.Fix("look at what it printed")
}

// notCommitted says why an app's volumes stay as they were.
func notCommitted(format string, args ...any) *problem.Error {
	return problem.New(problem.Unavailable, wire.RuleNotCommitted, "%s: its volumes stay as they were before it ran", fmt.Sprintf(format, args...))
}

// stopSignal is the signal that a session names; "" is SIGTERM.
func stopSignal(reply *wire.ReleaseReply) (syscall.Signal, error) {
	if reply.StopSignal == "" {
		return unix.SIGTERM, nil
	}
	return signalNamed("stop_signal", reply.StopSignal)
}

// renewalSignal is the signal by which the app learns of new files; 0: none, for
// an app that reads them anew by itself or whose session doesn't say.
func renewalSignal(reply *wire.ReleaseReply) (syscall.Signal, error) {
	if reply.OnRenewal == "" || reply.OnRenewal == wire.NoSignal {
		return 0, nil
	}
	return signalNamed("on_renewal", reply.OnRenewal)
}

func signalNamed(key, name string) (syscall.Signal, error) {
	sig := unix.SignalNum(name)
	if sig == 0 || sig == unix.SIGKILL || sig == unix.SIGSTOP {
		return 0, problem.New(problem.Invalid, ruleReleaseContent, "%s %q", key, clip(name)).
			Want("the name of a signal that a program can be told by, like SIGTERM")
	}
	return sig, nil
}
