package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	containerd "github.com/containerd/containerd/v2/client"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/operator/watchdog"
	"cupel.dev/cupel/internal/trusted/diskerror"

	"github.com/containerd/errdefs"
)

// ready waits until the daemon answers: for as long as it loads what ran before, and not
// for one that takes questions and hangs.
func (d *Daemon) ready(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, d.cfg.StartLimit)
	defer cancel()

	pauses := backoff.ExponentialBackOff{InitialInterval: 20 * time.Millisecond, Multiplier: 2, MaxInterval: 200 * time.Millisecond}
	for {
		question, end := context.WithTimeout(limit, time.Second)
		err := d.ping(question)
		end()
		if err == nil {
			return nil
		}

		if ctx.Err() != nil { // of what is told to end, nothing else is said
			return fmt.Errorf("wait for containerd: %w", ctx.Err())
		}

		// Not runningPID(): a process that has just been executed has no arguments
		// for a moment.
		pid := d.knownPID()
		if _, gone := startTime(pid); gone != nil {
			err := problem.New(problem.Unavailable, ruleContainerdStart, "containerd ended while it started: %s", d.lastLog()).
				Fix("look at %s", d.LogFile())
			return diskerror.Explain(err, d.cfg.Dir, "the state folder")
		}
		if d.listens(pid) {
			if hung, ok := errors.AsType[watchdog.Hung](d.watched(pid).Look(limit)); ok {
				return problem.New(problem.Unavailable, ruleContainerdStart, "%w", hung).Fix("look at %s", d.LogFile())
			}
		}

		select {
		case <-limit.Done():
			if ctx.Err() == nil {
				return problem.New(problem.Unavailable, ruleContainerdStart, "containerd (process %d) takes no questions yet: it loads what ran before, and goes on with that", pid).
					Want("an answer within %s", problem.Duration(d.cfg.StartLimit)).
					Fix("run this again, which waits for the same process; if that does not help, look at %s, and end it with kill -9 %d", d.LogFile(), pid)
			}
		case <-time.After(pauses.NextBackOff()):
		}
	}
}

// knownPID is the process that is the daemon, as far as this one knows.
func (d *Daemon) knownPID() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pid
}

// watched is the daemon's process as the watchdog sees it.
func (d *Daemon) watched(pid int) watchdog.Process {
	return watchdog.Process{
		Name:     "containerd",
		Rule:     node.RuleContainerdHangs,
		PID:      pid,
		Ask:      d.ping,
		Patience: d.cfg.Patience,
	}
}

// listens reports whether a daemon has got so far that it takes questions. Before, it
// loads what ran, and that takes as long as it takes: seconds for each shim that hangs.
func (d *Daemon) listens(pid int) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", pid)) // none, if it ended
	for line := range strings.Lines(string(b)) {
		// Its name may be removed from the folder; the kernel knows it still (proc_net(5)).
		const acceptsConnections = "00010000"
		fields := strings.Fields(line)
		if len(fields) > 7 && fields[3] == acceptsConnections && strings.HasSuffix(line, " "+d.Address()+"\n") {
			return true
		}
	}
	return false
}

// ping asks the daemon whether it serves, on a connection of its own.
func (d *Daemon) ping(ctx context.Context) error {
	if _, err := os.Stat(d.Address()); err != nil {
		return err
	}

	c, err := containerd.New(d.Address(), containerd.WithTimeout(time.Second))
	if err != nil {
		return err
	}
	defer c.Close()

	ok, err := c.IsServing(ctx)
	if err == nil && !ok {
		err = errors.New("it is not serving")
	}
	return err
}

// guard ends a daemon that hangs. Run starts it again, and instances, which are no
// children of its, go on.
func (d *Daemon) guard(ctx context.Context) {
	asked := d.cfg.Asked
	if asked == nil {
		asked = func(error) {}
	}

	for ctx.Err() == nil {
		if pid := d.knownPID(); d.runningPID() == pid && d.listens(pid) {
			hung, hangs := errors.AsType[watchdog.Hung](d.watched(pid).Watch(ctx, asked))
			if hangs {
				asked(d.endHung(ctx, pid, hung))
			}
		}

		select {
		case <-ctx.Done():
		case <-time.After(d.cfg.Patience / 5):
		}
	}
}

// tell says what happened to the daemon, by the event's reason.
func (d *Daemon) tell(ctx context.Context, reason, message string) {
	d.cfg.Logger.WarnContext(ctx, message)
	if d.cfg.Tell != nil {
		d.cfg.Tell(reason, message)
	}
}

// endHung ends a daemon that does not answer.
func (d *Daemon) endHung(ctx context.Context, pid int, hung watchdog.Hung) error {
	message := fmt.Sprintf("%s: it is ended and started again, apps go on. What it did last: %s", hung, d.LogFile())
	d.tell(ctx, string(node.RuleContainerdHangs), message)

	d.mu.Lock()
	d.told = pid
	d.mu.Unlock()

	alive := func() bool { return d.runningPID() == pid }
	if err := endBy(ctx, pid, alive, syscall.SIGKILL); err != nil {
		return problem.New(problem.Unavailable, node.RuleContainerdHangs, "containerd (process %d) does not answer and can't be ended: %w", pid, err).
			Fix("a process that SIGKILL doesn't end waits for a device: look at the disk (dmesg), or boot the machine")
	}
	return nil
}

// ifWhole returns the daemon unless it answers and can't read its own database: it
// offers nothing then, and says so in its log alone.
func (d *Daemon) ifWhole(ctx context.Context) (*Daemon, error) {
	c, err := containerd.New(d.Address(), containerd.WithTimeout(d.cfg.Patience))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	defer c.Close()

	question, cancel := context.WithTimeout(ctx, d.cfg.Patience)
	defer cancel()
	_, err = c.NamespaceService().List(question)
	if !errdefs.IsNotImplemented(err) {
		return d, nil // what fails otherwise is tried again by whoever needs it
	}

	// The next one reads a database that was put back. Instances go on.
	pid := d.knownPID()
	if err := end(ctx, pid, func() bool { return d.runningPID() == pid }); err != nil {
		d.cfg.Logger.WarnContext(ctx, "containerd that can't read its database does not end", "error", err)
	}
	return nil, diskerror.Explain(d.damaged(d.LogFile()+" says why. "), d.cfg.Dir, "the state folder")
}

// database is containerd's own: which images, snapshots and containers there are.
func (d *Daemon) database() string {
	return d.path("root", "io.containerd.metadata.v1.bolt", "meta.db")
}

// damaged is the refusal of a database that containerd can't read, or doesn't miss.
func (d *Daemon) damaged(why string) *problem.Error {
	return problem.New(problem.Invalid, problem.RuleStateDamaged, "containerd can't read its database %s", d.database()).
		Want("the file as containerd wrote it").
		Fix("%sLook at the disk (dmesg); cupel down --force, remove %s, cupel up: images come from the registry again, apps are started anew, and what they wrote into volumes since they started is lost", why, d.path("root"))
}
