package watchdog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/procfs"
)

// Patience is how long one of cupeld's own processes may leave a question without an
// answer. With the time between two questions it is half a minute.
const Patience = 25 * time.Second

const (
	// looks is how often it is looked, within the patience, what the process does.
	looks = 10
	// atWork is in how many of them it has to do something so as not to hang.
	atWork = 3
	// busyPart is which part of the patience it may need of a processor's time so as to
	// do nothing: one that serves many others at once is never seen at work for long.
	busyPart = 100
	// askAgain lies between an answer, or a failure, and the next question, as a part
	// of the patience.
	askAgain = 5
)

// ErrUnreached is joined to the failure of a question that did not come to the process:
// what is between may be to blame.
var ErrUnreached = errors.New("not reached")

// Process is one that is looked after.
type Process struct {
	Name string       // for messages
	Rule problem.Rule // of the problem that it does not answer
	PID  int
	// Ask returns nil once the process has answered, whatever it said; or why it
	// can't any more. It ends with its context.
	Ask      func(context.Context) error
	Patience time.Duration
}

// Hung is what there is to say of a process that hangs.
type Hung string

func (h Hung) Error() string { return string(h) }

// Watch looks after a process until it hangs, of which it returns a [Hung], or until it
// has ended or ctx ends, which is nil. It tells how each question went meanwhile: nil,
// or why there is no answer of a process that doesn't hang.
func (p Process) Watch(ctx context.Context, tell func(error)) error {
	first, err := procfs.Of(p.PID)
	for err == nil {
		answer := p.Look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if hung, ok := errors.AsType[Hung](answer); ok {
			return hung
		}
		tell(answer)

		select {
		case <-ctx.Done():
			return nil
		case <-time.After(p.Patience / askAgain):
		}

		// Another process may have its number by now.
		var now procfs.Stat
		if now, err = procfs.Of(p.PID); now.Start != first.Start {
			break
		}
	}
	return nil
}

// Look asks once. It returns nil for an answer and for a process that has ended, a
// [Hung] for one that hangs, and another error for one that only gave no answer.
func (p Process) Look(ctx context.Context) error {
	question, end := context.WithCancel(ctx)
	defer end()
	last := make(chan error, 1)
	go func() { last <- p.ask(question) }()

	// What it does meanwhile is looked at while the question waits.
	worked := 0
	before, _ := procfs.Of(p.PID) // one that has ended is seen below
	for range looks {
		select {
		case err := <-last:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(p.Patience / looks):
		}
		if procfs.AtWork(p.PID) {
			worked++
		}
	}

	end()
	after, _ := procfs.Of(p.PID)
	busy := worked >= atWork || after.CPU-before.CPU > p.Patience/busyPart
	return p.judge(<-last, busy)
}

// ask asks until there is an answer.
func (p Process) ask(ctx context.Context) error {
	for {
		err := p.Ask(ctx)
		if err == nil {
			return nil
		}

		select {
		case <-ctx.Done():
			return err
		case <-time.After(p.Patience / looks):
		}
	}
}

// judge says what it means that there was no answer.
func (p Process) judge(err error, busy bool) error {
	if err == nil {
		return nil
	}
	if _, gone := procfs.Of(p.PID); gone != nil {
		return nil // it has ended, which its starter sees
	}

	silent := problem.New(problem.Unavailable, p.Rule, "%s (process %d) has not answered for %s", p.Name, p.PID, problem.Duration(p.Patience))
	switch {
	case procfs.Stopped(p.PID):
		silent.Actual += ", and is stopped (SIGSTOP, or a debugger)"

	case busy:
		silent.Actual += ", and works: it is left alone"
		return silent.Fix("see what it does: top -H -p %d; to end it, kill -9 %d: it is started again, apps go on", p.PID, p.PID)

	case errors.Is(err, ErrUnreached):
		silent.Actual += fmt.Sprintf(", and can't be reached (%v): it is left alone", err)
		return silent.Fix("see what stands between, as a firewall's rule for this machine's own connections; to end it, kill -9 %d: it is started again, apps go on", p.PID)

	default:
		silent.Actual += ", and does nothing"
	}
	return Hung(silent.Actual)
}
