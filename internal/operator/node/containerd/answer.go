package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"

	"cupel.dev/cupel/internal/trusted/problem"
)

// ready waits until the daemon answers: for as long as it loads what ran, and not for
// one that takes questions and leaves them without an answer.
func (d *Daemon) ready(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, d.cfg.StartLimit)
	defer cancel()
	var deaf time.Time // since when it takes questions and answers none; zero: it takes none
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		question, end := context.WithTimeout(limit, d.cfg.Patience)
		err := d.ping(question)
		end()
		if err == nil {
			return nil
		}

		// Not running(): a process that has just been executed has no arguments
		// for a moment.
		d.mu.Lock()
		pid := d.pid
		d.mu.Unlock()
		if _, gone := startTime(pid); gone != nil {
			return problem.New(problem.Unavailable, "containerd_start", "containerd ended while it started: %s", d.lastLog()).
				Fix("look at %s", d.LogFile())
		}
		switch {
		case !d.listens(pid):
			deaf = time.Time{}
		case deaf.IsZero():
			deaf = time.Now()
		case time.Since(deaf) > hungAfter*d.cfg.Patience:
			return problem.New(problem.Unavailable, "containerd_start", "containerd does not answer: %w", err).
				Fix("look at %s", d.LogFile())
		}

		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for containerd: %w", ctx.Err())
		case <-limit.Done():
			return problem.New(problem.Unavailable, "containerd_start", "containerd (process %d) takes no questions yet: it loads what ran before, and goes on with that", pid).
				Want("an answer within %s", d.cfg.StartLimit).
				Fix("run this again, which waits for the same process; if that does not help, look at %s, and end it with kill -9 %d", d.LogFile(), pid)
		case <-time.After(wait):
		}
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

// hungAfter is how many questions in a row a daemon that takes them has to leave
// without an answer.
const hungAfter = 3

// guard ends a daemon that runs and answers nothing any more. Run starts it again,
// and instances, which are no children of its, go on.
func (d *Daemon) guard(ctx context.Context) {
	silent, asked := 0, 0
	for ctx.Err() == nil {
		d.mu.Lock()
		pid := d.pid
		d.mu.Unlock()
		if pid != asked {
			silent, asked = 0, pid
		}
		question, cancel := context.WithTimeout(ctx, d.cfg.Patience)
		err := d.ping(question)
		cancel()
		if silent++; err == nil || d.running() != pid || !d.listens(pid) {
			silent = 0
		}
		if silent >= hungAfter && ctx.Err() == nil {
			if err := d.endHung(ctx, pid); err != nil {
				d.cfg.Logger.ErrorContext(ctx, "containerd hangs and can't be ended", "error", err)
			}
			silent = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(d.cfg.Patience):
		}
	}
}

// endHung ends a daemon that does not answer.
func (d *Daemon) endHung(ctx context.Context, pid int) error {
	message := fmt.Sprintf("containerd (process %d) runs and does not answer: it is ended and started again, apps go on. What it did last: %s", pid, d.path("containerd.log"))
	d.cfg.Logger.WarnContext(ctx, message)
	if d.cfg.Tell != nil {
		d.cfg.Tell(message)
	}
	alive := func() bool { return d.running() == pid }
	if err := endBy(ctx, pid, alive, syscall.SIGKILL); err != nil {
		return problem.New(problem.Unavailable, "containerd_hangs", "containerd (process %d) does not answer and can't be ended: %w", pid, err).
			Fix("a process that SIGKILL doesn't end waits for a device: look at the disk (dmesg), or boot the machine")
	}
	return nil
}
