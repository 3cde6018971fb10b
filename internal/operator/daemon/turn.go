package daemon

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/procfs"
	"cupel.dev/cupel/internal/trusted/filelock"
)

// Who stops what runs in a state folder goes before who starts it anew: a start that
// comes while something ends waits for that, and is not what the stopping ends next.

// turnFile is what they hold a shared lock of, and a start asks for the whole of it. Only
// root can open it: whoever can open a file can hold its lock.
func (l layout) turnFile() string { return l.path("turn.lock") }

// openTurn opens the file, and makes it if create is os.O_CREATE.
func (l layout) openTurn(create int) (*os.File, error) {
	f, err := os.OpenFile(l.turnFile(), os.O_RDONLY|create|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err == nil {
		_ = f.Chmod(0o600) // as of one that was copied here; a disk may take no writes
	}
	return f, err
}

// turnLimit is how long the lock may be another one's before nobody is made to wait: a
// start that asks has it for a moment only.
const turnLimit = time.Second

// goFirst has every start wait until the returned function was called. A file that can't
// be opened, a file system that knows no locks, or somebody else who holds this one, lets
// nobody wait, and keeps nobody from stopping what runs.
func (l layout) goFirst(ctx context.Context) (done func()) {
	turn, err := l.openTurn(os.O_CREATE)
	if err != nil {
		return func() {}
	}

	bounded, cancel := context.WithTimeout(ctx, turnLimit)
	defer cancel()
	_ = filelock.WaitShared(bounded, turn)
	return func() { _ = turn.Close() }
}

// awaited says who waits for the folder's lock to stop what runs there; nil: nobody. Only
// who holds that lock may ask.
func (l layout) awaited() *lockedError {
	turn, err := l.openTurn(0)
	if err != nil {
		return nil
	}
	defer func() { _ = turn.Close() }()

	taken := func() bool {
		return errors.Is(filelock.Try(turn), filelock.ErrHeld)
	}

	if !taken() {
		return nil
	}

	held := &lockedError{dir: l.dir, what: workTurn, pid: flockedBy(turn)}
	if held.pid == 0 && !taken() { // whoever had it has ended
		return nil
	}

	if c, ok := procfs.CommandOf(held.pid); ok && c.Name == "cupeld" {
		held.what = workDown
	}
	return held
}

// flockedBy is a process that holds a file's lock, as the kernel says it (proc_locks(5));
// 0: it doesn't.
func flockedBy(f *os.File) int {
	info, err := f.Stat()
	if err != nil {
		return 0
	}

	inode := strconv.FormatUint(info.Sys().(*syscall.Stat_t).Ino, 10)
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}

	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line) // number, kind, how, for what, process, device and inode
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], ":"+inode) {
			continue
		}

		if pid, err := strconv.Atoi(fields[4]); err == nil && hasOpen(pid, info) { // another disk may have the same inode
			return pid
		}
	}
	return 0
}

// makeInTurn is make, after a cupeld that ends and every down have had their time, but
// for a while only. It tells once what it waits for.
func (l layout) makeInTurn(ctx context.Context, deadline time.Time, tell func(string)) (*stateLock, error) {
	for err := error(nil); ; {
		var lock *stateLock
		if err = l.stillUnseen(err); err == nil {
			lock, err = l.make()
		}

		if err == nil {
			first := l.awaited()
			if first == nil {
				return lock, nil
			}
			lock.release()
			err = first
		}

		held, ok := errors.AsType[*lockedError](err)
		ends := ok && (held.what == workEnd || held.what == workDown || held.what == workTurn)
		if !ends || held.stopped() != nil || time.Now().After(deadline) {
			return nil, err
		}

		if tell != nil && (held.pid != 0 || held.what == workTurn) {
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
