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

// uncancelled is what remains of an error without the parts that an interrupt made; nil:
// nothing. Only an error that says nothing beside its parts, as of errors.Join, is taken
// apart; one that wraps others in words of its own stays whole as long as one of them remains.
func uncancelled(err error) error {
	var parts []error
	bare := false            // it says nothing beside its parts
	switch e := err.(type) { //nolint:errorlint // each layer is looked at by itself
	case nil:
		return nil
	case *exec.ExitError:
		if endedBySignal(e) {
			return nil
		}
	case interface{ Unwrap() []error }:
		parts = e.Unwrap()
		joined := errors.Join(parts...)
		bare = joined != nil && joined.Error() == err.Error()
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			parts = []error{inner}
		}
	}

	if len(parts) == 0 {
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}

	var rest []error
	for _, part := range parts {
		if left := uncancelled(part); left != nil {
			rest = append(rest, left)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	if bare {
		return errors.Join(rest...)
	}
	return err
}

// endedBySignal tells of a program that exec ended for an interrupt, or the terminal, or a
// service manager.
func endedBySignal(e *exec.ExitError) bool {
	status, ok := e.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && slices.Contains([]syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL}, status.Signal())
}

// interrupted tells whether an error says that an interrupt came, and nothing else.
func interrupted(err error) bool {
	return errors.Is(err, context.Canceled) && uncancelled(err) == nil
}

// besidesInterrupt is what of an error is told where an interrupt may have come: it alone,
// or what else failed.
func besidesInterrupt(err error) error {
	if !errors.Is(err, context.Canceled) || interrupted(err) {
		return err
	}
	return uncancelled(err)
}
