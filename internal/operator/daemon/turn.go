package daemon

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Who stops what runs in a state folder goes before who starts it anew: a start that
// comes while something ends waits for that, and is not what the stopping ends next.

// goFirst has every start wait until the returned function was called. A folder that
// can't be opened, or whose file system knows no locks, lets nobody wait.
func (l layout) goFirst() (done func()) {
	dir, err := os.Open(l.dir)
	if err != nil {
		return func() {}
	}
	_ = unix.Flock(int(dir.Fd()), unix.LOCK_SH)
	return func() { _ = dir.Close() }
}

// awaited reports whether somebody waits for the folder's lock to stop what runs there.
// Only who holds that lock may ask.
func (l layout) awaited() bool {
	dir, err := os.Open(l.dir)
	if err != nil {
		return false
	}
	defer func() { _ = dir.Close() }()
	return errors.Is(unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// makeInTurn is make, after a cupeld that ends and every down have had their time, but
// for a while only. It tells once what it waits for.
func (l layout) makeInTurn(ctx context.Context, deadline time.Time, tell func(string)) (*stateLock, error) {
	for {
		lock, err := l.make()
		if err == nil && l.awaited() {
			lock.release()
			err = &lockedError{dir: l.dir, what: workDown}
		} else if err == nil {
			return lock, nil
		}
		held, ok := errors.AsType[*lockedError](err)
		ends := ok && (held.what == workEnd || held.what == workDown)
		if !ends || held.stopped() != nil || time.Now().After(deadline) {
			return nil, err
		}
		if tell != nil && held.pid != 0 {
			tell("waiting: " + held.Error() + "; the start comes after it")
			tell = nil
		}

		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// end writes that the cupeld which holds the lock ends.
func (s *stateLock) end() { _ = s.sign(workEnd) }
