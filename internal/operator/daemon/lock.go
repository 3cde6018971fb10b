package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/proc"
	"cupel.dev/cupel/internal/trusted/problem"
)

// work is what somebody does who holds a state folder's lock.
type work string

const (
	workUp      work = "up"
	workDown    work = "down"
	workCleanup work = "cleanup"
	workCheck   work = "check"
)

// stateLock is held by whoever works on a state folder.
type stateLock struct{ f *os.File }

// lockedError says who holds the lock of a folder, and what for.
type lockedError struct {
	dir  string
	pid  int
	what work
}

func (e *lockedError) Error() string {
	if e.what != workUp {
		return fmt.Sprintf("'cupel %s' works on %s (process %d)", e.what, e.dir, e.pid)
	}
	return fmt.Sprintf("cupeld already runs on %s (process %d)", e.dir, e.pid)
}

// waits says what somebody waits for who wants this lock next.
func (e *lockedError) waits() string {
	if e.what != workUp {
		return "waiting for " + e.Error()
	}
	return fmt.Sprintf("waiting for cupeld (process %d): its apps stop and store their volumes", e.pid)
}

// Rules about who else is at work; the first has an exit code of its own, so that a
// script can tell that what it wants is there.
const (
	ruleRuns   = "already_running"
	ruleAtWork = "at_work"
	ruleHangs  = "cupeld_hangs"

	codeRuns = 10
)

// stopped is the refusal where the holder was stopped by a signal, and gives the lock
// to nobody before it goes on; nil where it wasn't.
func (e *lockedError) stopped() *problem.Error {
	if e.pid == 0 || !proc.Stopped(e.pid) {
		return nil
	}
	return problem.New(problem.Unavailable, ruleHangs, "%w, and is stopped (SIGSTOP, or a debugger): it does nothing", e).
		Fix("let it go on: kill -CONT %d; or end it: kill -9 %d, then run this again. Apps go on either way", e.pid, e.pid)
}

// problem is the refusal of whoever wanted the lock.
func (e *lockedError) problem() *problem.Error {
	if p := e.stopped(); p != nil {
		return p
	}
	if e.what != workUp {
		return problem.New(problem.Conflict, ruleAtWork, "%w", e).Fix("wait until that has ended, then run this again")
	}
	return problem.New(problem.Conflict, ruleRuns, "%w", e).Fix("use it as it is, or stop it: cupel down")
}

func (l layout) lockFile() string { return l.path("cupeld.lock") }

// lock takes the folder's lock and writes into it who we are and what for. Only root can
// open the file: whoever can open a file can hold its lock. A file that was removed
// while we took its lock, as by a cleanup, is no lock of this folder any more.
func (l layout) lock(what work) (*stateLock, error) {
	for {
		f, err := os.OpenFile(l.lockFile(), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ELOOP) {
			return nil, problem.New(problem.Invalid, ruleDamaged, "%w", err).Want("a file").Fix("remove %s: it holds nothing", l.lockFile())
		}
		if err != nil {
			return nil, problem.New(problem.Invalid, "state_folder", "%w", err).Fix("run as root, or name another folder with --state")
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			held := readHolder(l.dir, f)
			_ = f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, held
			}
			return nil, fmt.Errorf("lock %s: %w", l.dir, err)
		}
		s := &stateLock{f}
		same, err := s.is(l.lockFile())
		if err == nil && same {
			err = s.sign(what)
		}
		if err != nil {
			s.release()
			return nil, fmt.Errorf("lock %s: %w", l.dir, err)
		}
		if same {
			return s, nil
		}
		s.release()
	}
}

// make makes the folder and takes its lock to run in it. A cleanup that ends at the same
// moment takes the folder away again: then both are made anew.
func (l layout) make() (*stateLock, error) {
	for range 100 {
		if err := os.MkdirAll(l.dir, 0o755); err != nil {
			return nil, problem.New(problem.Invalid, "state_folder", "%w", err).Fix("name another folder with --state")
		}
		err := l.checkFolder()
		var lock *stateLock
		if err == nil {
			lock, err = l.lock(workUp)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return lock, err
		}
	}
	return nil, problem.New(problem.Conflict, ruleAtWork, "%s is removed again and again", l.dir).Fix("look who runs cupel cleanup there")
}

// is reports whether the file that we have locked is still the one of that name.
func (s *stateLock) is(path string) (bool, error) {
	ours, err := s.f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(ours, named), err
}

// pidWidth is how many bytes the process number has in the file; what it does follows.
const pidWidth = 20

// sign writes who holds the lock, for who wants it.
func (s *stateLock) sign(what work) error {
	// An earlier release left it open to all.
	if err := errors.Join(s.f.Chmod(0o600), s.f.Truncate(0)); err != nil {
		return err
	}
	_, err := s.f.WriteAt(fmt.Appendf(nil, "%-*d%s\n", pidWidth, os.Getpid(), what), 0)
	return err
}

// readHolder reads what the holder wrote. Without a word about what for, as from an
// earlier release, it is a cupeld that runs.
func readHolder(dir string, f *os.File) *lockedError {
	b := make([]byte, 64)
	n, _ := f.ReadAt(b, 0)
	pid, what, _ := strings.Cut(strings.TrimSpace(string(b[:n])), " ")
	e := &lockedError{dir: dir, what: workUp}
	e.pid, _ = strconv.Atoi(pid)
	if w := work(strings.TrimSpace(what)); slices.Contains([]work{workDown, workCleanup, workCheck}, w) {
		e.what = w
	}
	return e
}

func (s *stateLock) release() { _ = s.f.Close() }

// heldLock is the lock that whoever started this process holds for it, on a
// descriptor that is inherited: nobody else can take it in between.
func heldLock(fd int) (*stateLock, error) {
	unix.CloseOnExec(fd)
	s := &stateLock{os.NewFile(uintptr(fd), "cupeld.lock")}
	if err := s.sign(workUp); err != nil {
		s.release()
		return nil, fmt.Errorf("take over the lock: %w", err)
	}
	return s, nil
}
