package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/procfs"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/trusted/filelock"
	"cupel.dev/cupel/internal/wording"
)

// work is what somebody does who holds a state folder's lock.
type work string

const (
	workUp      work = "up"
	workEnd     work = "end" // of a cupeld that was told to, or has to
	workDown    work = "down"
	workCleanup work = "cleanup"
	workCheck   work = "check"
	workTurn    work = "turn" // of another program, that holds what a start asks for: see turn.go
)

// daemon says that it is the work of a cupeld.
func (w work) daemon() bool { return w == workUp || w == workEnd }

// stateLock is held by whoever works on a state folder.
type stateLock struct {
	f *os.File

	saying sync.Mutex // one at a time says what it does, or waits for
	signed int        // how many bytes say who holds it
}

// lockedError says who holds the lock of a folder, and what for.
type lockedError struct {
	dir  string
	pid  int
	what work
	note string // what its work waits for
	// renews says that a cupeld that stops writes here what it waits for, again and again.
	renews  bool
	written time.Time // by the disk's clock, to be compared with itself

	// unlinked says that it is a cupeld of which the lock's file was removed (see unseen.go).
	unlinked bool
}

// word differs whenever the holder wrote something.
func (e *lockedError) word() string {
	return fmt.Sprint(e.pid, e.what, e.note, e.written.UnixNano())
}

func (e *lockedError) Error() string {
	if e.unlinked && e.what == workUp {
		return fmt.Sprintf("cupeld already runs on %s (process %d); only %s was removed", e.dir, e.pid, layoutAt(e.dir).lockFile())
	}

	switch e.what {
	case workUp:
		return fmt.Sprintf("cupeld already runs on %s (process %d)", e.dir, e.pid)
	case workEnd:
		return fmt.Sprintf("the cupeld that ran on %s (process %d) is about to end", e.dir, e.pid)
	case workTurn:
		who := "a process that isn't known"
		if e.pid != 0 {
			who = fmt.Sprintf("another program (process %d)", e.pid)
		}
		return fmt.Sprintf("%s holds the lock of %s", who, layoutAt(e.dir).turnFile())
	}
	return fmt.Sprintf("'cupel %s' works on %s (process %d)", e.what, e.dir, e.pid)
}

// waits says what somebody waits for who wants this lock next.
func (e *lockedError) waits() string {
	if !e.what.daemon() {
		return "waiting for " + e.Error()
	}
	line := fmt.Sprintf("waiting for cupeld (process %d): its apps stop and store their volumes", e.pid)
	if e.note != "" {
		line += "\n" + e.note
	}
	return line
}

// codeRuns is the exit code of ruleRuns, by which a script can tell that what it wants is
// there.
const codeRuns = 10

// stopped is the refusal where the holder was stopped by a signal, and gives the lock
// to nobody before it goes on; nil where it wasn't.
func (e *lockedError) stopped() *problem.Error {
	if e.pid == 0 || !procfs.Stopped(e.pid) {
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

	if e.what == workTurn {
		return problem.New(problem.Conflict, ruleAtWork, "%w, as only cupel down and cupel cleanup should", e).
			Fix("look who it is (fuser -v %s) and end it, or wait for it; then run this again", wording.ShellWord(layoutAt(e.dir).turnFile()))
	}

	if e.what != workUp {
		return problem.New(problem.Conflict, ruleAtWork, "%w", e).Fix("wait until that has ended, then run this again")
	}

	return problem.New(problem.Conflict, ruleRuns, "%w", e).Fix("use it as it is; to give it other flags: kill %d (apps go on), then this again with all its flags; to stop apps too: cupel down", e.pid)
}

// lockFile is whose lock says that somebody works on the folder, and whose text says who.
func (l layout) lockFile() string { return l.path("cupeld.lock") }

// lock takes the folder's lock and writes into it who we are and what for. Only root can
// open the file: whoever can open a file can hold its lock. A file that was removed
// while we took its lock, as by a cleanup, is no lock of this folder any more. A cupeld
// that runs holds it in any case.
func (l layout) lock(what work) (*stateLock, error) {
	for {
		f, unwritten, err := l.openLock(what)
		if err != nil {
			return nil, err
		}

		if err := filelock.Try(f); err != nil {
			held := readHolder(l.dir, f)
			held.renews = held.renews && unwritten == nil
			if diskerror.ReadOnly(unwritten) { // nor could the holder
				held.note = "the disk of the state folder takes no writes, so that no volume can be stored: cupel down --force does not wait long for it"
			} else if unwritten != nil && held.note == "" {
				held.note = l.lockFile() + " can't be written, so that it doesn't say what is waited for: lsattr shows attributes"
			}
			_ = f.Close()
			if errors.Is(err, filelock.ErrHeld) {
				if away := l.moved(held); away != nil {
					return nil, away
				}
				return nil, held
			}
			return nil, fmt.Errorf("lock %s: %w", l.dir, err)
		}

		s := &stateLock{f: f}
		same, err := s.is(l.lockFile())
		if err == nil && same {
			if unseen := l.unseen(); unseen != nil {
				s.release()
				return nil, unseen
			}
			if unwritten == nil {
				err = s.sign(what)
			}
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

// openLock opens the lock's file, to be written unless something keeps that from being,
// which it returns. Who ends everything needs no word in it.
func (l layout) openLock(what work) (f *os.File, unwritten, err error) {
	const how = unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err = os.OpenFile(l.lockFile(), os.O_CREATE|os.O_RDWR|how, 0o600)
	if ends := what == workDown || what == workCleanup; ends && (diskerror.ReadOnly(err) || errors.Is(err, fs.ErrPermission)) {
		if only, err2 := os.OpenFile(l.lockFile(), os.O_RDONLY|how, 0); err2 == nil {
			f = only
			unwritten = err
			err = nil
		}
	}

	if err != nil {
		return nil, nil, l.refuseLock(err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, nil, l.refuseLock(&fs.PathError{Op: "open", Path: l.lockFile(), Err: unix.ENXIO})
	}

	return f, unwritten, nil
}

// refuseLock says what is wrong with the lock's file.
func (l layout) refuseLock(err error) error {
	err = diskerror.Explain(err, l.dir, "the state folder")

	for _, other := range []error{unix.EISDIR, unix.ELOOP, unix.ENXIO} {
		if errors.Is(err, other) {
			return problem.New(problem.Invalid, problem.RuleStateDamaged, "%w", err).Want("a file").Fix("remove %s: it holds nothing", l.lockFile())
		}
	}

	if _, explained := errors.AsType[*problem.Error](err); explained || errors.Is(err, fs.ErrNotExist) {
		return err
	}

	if os.Geteuid() == 0 {
		return l.explain(err)
	}
	return problem.New(problem.Invalid, problem.RuleStateFolder, "%w", err).Fix("run as root, or name another folder with --state")
}

// make makes the folder and takes its lock to run in it. A cleanup that ends at the same
// moment takes the folder away again: then both are made anew.
func (l layout) make() (*stateLock, error) {
	for range 100 {
		if err := l.makeFolder(); err != nil {
			return nil, err
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

// makeFolder makes the folder, unless a cupeld runs whose folder was there, or there is a
// link in its place: what that led to would be made in another file system.
func (l layout) makeFolder() error {
	if l.gone() {
		if err := l.unseen(); err != nil {
			return err
		}
	}

	if l.nowhere != nil {
		return l.nowhere.problem().Fix("%s; or remove the link, or name another folder with --state", l.nowhere.mend())
	}

	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return l.refuseFolder(err)
	}
	return nil
}

// refuseFolder says why the folder, or what every start needs in it, can't be made.
func (l layout) refuseFolder(err error) error {
	err = l.explain(err)
	if _, explained := errors.AsType[*problem.Error](err); explained {
		return err
	}
	return problem.New(problem.Invalid, problem.RuleStateFolder, "%w", err).Fix("name another folder with --state")
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
	if err := s.f.Chmod(0o600); err != nil {
		return err
	}

	line := fmt.Appendf(nil, "%-*d%s", pidWidth, os.Getpid(), what)
	if what.daemon() {
		line = append(line, renews...)
	}

	s.saying.Lock()
	defer s.saying.Unlock()

	// Over what is there, so that nobody reads a file without a holder.
	n, err := s.f.WriteAt(append(line, '\n'), 0)
	s.signed = n
	return errors.Join(err, s.f.Truncate(int64(n)))
}

// say writes what the holder's work waits for, for who wants the lock; empty: nothing
// any more. A disk that doesn't take it is no reason to stop.
func (s *stateLock) say(line string) {
	line = strings.ReplaceAll(line, "\n", " ")
	line = strings.ToValidUTF8(line[:min(len(line), noteLimit)], "") // no part of a character

	s.saying.Lock()
	defer s.saying.Unlock()
	_ = s.f.Truncate(int64(s.signed))
	_, _ = s.f.WriteAt([]byte(line), int64(s.signed))
}

// renews follows a cupeld's work, if it renews what it says.
const renews = " renews"

// noteLimit is how long what a holder waits for may be.
const noteLimit = 2000

// readHolder reads what the holder wrote. Without a word about what for, as from an
// earlier release, it is a cupeld that runs.
func readHolder(dir string, f *os.File) *lockedError {
	b := make([]byte, 64+noteLimit)
	n, _ := f.ReadAt(b, 0)

	line, note, _ := strings.Cut(strings.TrimSpace(string(b[:n])), "\n")
	pid, what, _ := strings.Cut(line, " ")
	what, renewed := strings.CutSuffix(what, renews)

	e := &lockedError{dir: dir, what: workUp, note: note, renews: renewed}
	if info, err := f.Stat(); err == nil {
		e.written = info.ModTime()
	}

	e.pid, _ = strconv.Atoi(pid)
	if w := work(strings.TrimSpace(what)); slices.Contains([]work{workEnd, workDown, workCleanup, workCheck}, w) {
		e.what = w
	}
	return e
}

// release gives the lock back, unless another process has the same descriptor.
func (s *stateLock) release() { _ = s.f.Close() }

// heldLock is the lock that whoever started this process holds for it, on a
// descriptor that is inherited: nobody else can take it in between.
func heldLock(fd int) (*stateLock, error) {
	unix.CloseOnExec(fd)
	s := &stateLock{f: os.NewFile(uintptr(fd), "cupeld.lock")}
	if err := s.sign(workUp); err != nil {
		s.release()
		return nil, fmt.Errorf("take over the lock: %w", err)
	}
	return s, nil
}
