package daemon

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"syscall"
)

// An interrupt ends what waits, and programs that were started: their errors are its own.
// Whatever else failed meanwhile is told.

// uncancelled is what remains of an error without the parts that an interrupt made. An
// error that wraps several, and says more than what the interrupt did, stays whole.
func uncancelled(err error) error {
	if err == nil || cancelled(err) {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var rest []error
	for _, part := range joined.Unwrap() {
		rest = append(rest, uncancelled(part))
	}
	return errors.Join(rest...)
}

// interrupted tells whether an error says that an interrupt came, and nothing else.
func interrupted(err error) bool { return errors.Is(err, context.Canceled) && cancelled(err) }

// besidesInterrupt is what of an error is told where an interrupt may have come: it alone,
// or what else failed.
func besidesInterrupt(err error) error {
	if !errors.Is(err, context.Canceled) || cancelled(err) {
		return err
	}
	return uncancelled(err)
}

// cancelled tells whether an interrupt made all of an error.
func cancelled(err error) bool {
	switch e := err.(type) { //nolint:errorlint // each layer is looked at by itself
	case *exec.ExitError: // of a program that exec ended, or the terminal, or a service manager
		status, ok := e.Sys().(syscall.WaitStatus)
		return ok && status.Signaled() && slices.Contains([]syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL}, status.Signal())
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(part error) bool { return !cancelled(part) })
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return cancelled(inner)
		}
	}
	return errors.Is(err, context.Canceled)
}
