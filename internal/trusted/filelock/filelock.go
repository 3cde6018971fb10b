// Package filelock takes the advisory lock of an open file (flock(2)), so that of several
// processes one at a time changes what the file stands for.
//
// A lock belongs to the open file and is given up by closing it, or by the end of the last
// process that has it open. The package trusts whoever may open the file: they can hold its
// lock for ever. Whoever needs that the file is still the one at its path looks after
// taking the lock. Safe for concurrent use on different files.
package filelock

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// ErrHeld says that somebody else has a lock that excludes the one that was asked for.
var ErrHeld = errors.New("another process holds the lock")

// pause is between two looks at a lock that somebody holds.
const pause = 10 * time.Millisecond

// Try takes the lock for the caller alone, or returns [ErrHeld] at once.
func Try(f *os.File) error { return flock(f, syscall.LOCK_EX) }

// TryShared takes the lock together with others who share it, or returns [ErrHeld] at once.
func TryShared(f *os.File) error { return flock(f, syscall.LOCK_SH) }

// Wait takes the lock for the caller alone as soon as it may be had; it returns ctx's error
// when that ends before.
func Wait(ctx context.Context, f *os.File) error { return wait(ctx, f, Try) }

// WaitShared takes the lock together with others who share it, as soon as it may be had; it
// returns ctx's error when that ends before.
func WaitShared(ctx context.Context, f *os.File) error { return wait(ctx, f, TryShared) }

func wait(ctx context.Context, f *os.File, try func(*os.File) error) error {
	for {
		err := try(f)
		if !errors.Is(err, ErrHeld) {
			return err
		}

		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// flock doesn't wait: a call that waits in the kernel ends by no context.
func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return ErrHeld
		}
		return err
	}
}
