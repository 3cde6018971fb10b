package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/plain"
	"cupel.dev/cupel/internal/proc"
	"cupel.dev/cupel/internal/trusted/problem"
)

// A cupeld may go on while the folder's lock says nothing of it: the folder was unmounted
// under it (umount -l) or moved, something was mounted over it, or the lock's file was
// removed. Who takes the lock that is there then would start everything a second time, or
// end apps that this cupeld starts again.

// unseen is the cupeld that was started on the folder of this name and has a lock which
// is not the one that is there; nil: there is none.
func (l layout) unseen() *lockedError {
	if groups, err := cgroup.Detect("/sys/fs/cgroup"); err == nil {
		pids, _ := groups.Processes(l.daemonGroup()) // as a rule there is no such group
		for _, pid := range pids {
			if c, ok := proc.CommandOf(pid); ok && c.Name == "cupeld" {
				if held := l.unseenLock(pid); held != nil {
					return held
				}
			}
		}
	}
	list, _ := proc.Commands()
	for _, c := range list { // a service is in a group of its manager's
		if c.Name == "cupeld" && startedOn(c) == l.dir {
			if held := l.unseenLock(c.PID); held != nil {
				return held
			}
		}
	}
	return nil
}

// startedOn is the folder that a cupeld was given; empty: none.
func startedOn(c proc.Command) string {
	i := slices.Index(c.Args, "--state")
	if i < 0 || i+1 == len(c.Args) {
		return ""
	}
	return c.Args[i+1]
}

// unseenLock is the lock by which a process is a cupeld that runs, if that isn't the one
// that is in the folder.
func (l layout) unseenLock(pid int) *lockedError {
	if pid == os.Getpid() {
		return nil
	}
	open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is valid
	for _, fd := range open {
		locks, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, filepath.Base(fd)))
		if err != nil || !strings.Contains(string(locks), " FLOCK ") {
			continue
		}
		f, err := os.Open(fd) // also of a disk that has no place any more
		if err != nil {
			continue
		}
		held := readHolder(l.dir, f)
		info, err := f.Stat()
		_ = f.Close()
		if err != nil || held.pid != pid || !held.what.daemon() {
			continue
		}
		if there, err := os.Lstat(l.lockFile()); err == nil && os.SameFile(there, info) {
			continue
		}
		held.unlinked = l.without(fd, info)
		held.away = !held.unlinked
		if path, err := os.Readlink(fd); err == nil && held.away {
			if there, err := os.Lstat(path); err == nil && os.SameFile(there, info) {
				held.now = filepath.Dir(path)
			}
		}
		return held
	}
	return nil
}

// without reports whether an open file was the lock of the folder that is there, and is no
// more: it was removed, or has another name.
func (l layout) without(fd string, lock os.FileInfo) bool {
	path, err := os.Readlink(fd)
	if err != nil || !l.used() {
		return false
	}
	path, removed := strings.CutSuffix(path, " (deleted)")
	folder, err := os.Stat(l.dir)
	return err == nil && filepath.Dir(path) == l.dir && (removed || path != l.lockFile()) &&
		folder.Sys().(*syscall.Stat_t).Dev == lock.Sys().(*syscall.Stat_t).Dev
}

// moved sees whether the cupeld that holds our lock was started by a name that leads to
// this folder no more.
func (l layout) moved(held *lockedError) {
	c, ok := proc.CommandOf(held.pid)
	name := startedOn(c)
	if !ok || c.Name != "cupeld" || !held.what.daemon() || name == "" {
		return
	}
	ours, err := os.Stat(l.dir)
	if err != nil {
		return
	}
	if theirs, err := os.Stat(name); err != nil || !os.SameFile(ours, theirs) {
		held.away, held.dir, held.now = true, name, l.dir
	}
}

// awayError says what is with the folder of a cupeld that isn't at its name.
func (e *lockedError) awayError() string {
	what := fmt.Sprintf("%s is gone, and the cupeld that was started there (process %d) still runs", e.dir, e.pid)
	if !layoutAt(e.dir).gone() {
		what += "; what is there now is another folder"
	}
	return what
}

// awayProblem refuses to do anything to what runs in a folder that isn't there: apps would
// store their volumes into another one.
func (e *lockedError) awayProblem() *problem.Error {
	p := problem.New(problem.Conflict, ruleElsewhere, "%w", e).Want("the folder where it was, or nothing that runs")
	force := "cupel down --state " + plain.ShellWord(e.dir) + " --force ends what runs as it is: what apps wrote into volumes since they stored them last is lost"
	if e.now != "" {
		return p.Fix("its folder is %s now: have it there again (a mount, a link, a move), then run this again; or %s", e.now, force)
	}
	return p.Fix("have it there again, if there still is one (a mount, a link, a move, an umount of what hides it), then run this again; or %s", force)
}

// endAway ends by force a cupeld whose folder isn't at its name, and its daemons; nothing
// is stored, as that would be into another folder. What is left of its apps, a sweep ends.
func (l layout) endAway(ctx context.Context, held *lockedError) error {
	gone := watchEnd(held.pid)
	defer gone.forget()
	if err := l.killDaemons(held.pid); err != nil {
		return err
	}
	gone.wait(ctx)
	return nil
}

// killDaemons ends our helpers and that process by SIGKILL.
func (l layout) killDaemons(cupeld ...int) error {
	for _, p := range l.processes() {
		cupeld = append(cupeld, p.pid)
	}
	for _, pid := range cupeld {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
	}
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		return err
	}
	return groups.Kill(l.daemonGroup()) // the CAS too, whose user only its folder tells
}
