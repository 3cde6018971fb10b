package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/procfs"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// A cupeld may go on while the folder's lock says nothing of it: the folder isn't at its name
// any more (see away.go), or the lock's file was removed.

// unseen is the error of a cupeld that was started on the folder of this name and has a lock
// which is not the one that is there: a lockedError, or an awayError; nil: there is none.
func (l layout) unseen() error {
	if groups, err := cgroup.Detect("/sys/fs/cgroup"); err == nil {
		pids, _ := groups.Processes(l.daemonGroup()) // as a rule there is no such group
		for _, pid := range pids {
			if c, ok := procfs.CommandOf(pid); ok && c.Name == "cupeld" {
				if err := l.unseenLock(pid); err != nil {
					return err
				}
			}
		}
	}

	list, _ := procfs.Commands()
	for _, c := range list { // a service is in a group of its manager's
		if c.Name == "cupeld" && startedOn(c) == l.dir {
			if err := l.unseenLock(c.PID); err != nil {
				return err
			}
		}
	}
	return nil
}

// startedOn is the folder that a cupeld was given, without links; empty: none.
func startedOn(c procfs.Command) string {
	i := slices.Index(c.Args, "--state")
	if i < 0 || i+1 == len(c.Args) {
		return ""
	}

	name := c.Args[i+1]
	if !filepath.IsAbs(name) {
		in, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", c.PID))
		if err != nil {
			return ""
		}
		name = filepath.Join(in, name)
	}

	dir, _ := atomicfile.Follow(name)
	return dir
}

// unseenLock is the error of a process that is a cupeld by the lock that it holds, where the
// file of that lock is not the one in the folder; nil: it is no such process.
func (l layout) unseenLock(pid int) error {
	if pid == os.Getpid() {
		return nil
	}

	for fd, info := range openFiles(pid) {
		locks, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, filepath.Base(fd)))
		if err != nil || !strings.Contains(string(locks), " FLOCK ") {
			continue
		}

		f, err := os.Open(fd) // also of a disk that has no place any more
		if err != nil {
			continue
		}

		held := readHolder(l.dir, f)
		_ = f.Close()
		if held.pid != pid || !held.what.daemon() {
			continue
		}

		if there, err := os.Lstat(l.lockFile()); err == nil && os.SameFile(there, info) {
			continue
		}

		if held.unlinked = l.lockRemoved(fd, info); held.unlinked {
			return held
		}

		away := &awayError{dir: l.dir, cupeld: pid}
		if path, err := os.Readlink(fd); err == nil {
			if there, err := os.Lstat(path); err == nil && os.SameFile(there, info) {
				away.now = filepath.Dir(path)
			}
		}
		return away
	}
	return nil
}

// lockRemoved reports whether an open file was the lock of the folder that is there, and is no
// more: it was removed, or has another name.
func (l layout) lockRemoved(fd string, lock os.FileInfo) bool {
	path, err := os.Readlink(fd)
	if err != nil || !l.used() {
		return false
	}

	path, removed := strings.CutSuffix(path, " (deleted)")
	folder, err := os.Stat(l.dir)
	return err == nil && filepath.Dir(path) == l.dir && (removed || path != l.lockFile()) &&
		folder.Sys().(*syscall.Stat_t).Dev == lock.Sys().(*syscall.Stat_t).Dev
}

// lockAgain is lock, after a try that ended with that error: a cupeld that was unseen is
// looked at alone, rather than all processes anew.
func (l layout) lockAgain(what work, last error) (*stateLock, error) {
	if err := l.stillUnseen(last); err != nil {
		return nil, err
	}
	return l.lock(what)
}

// stillUnseen looks again at the unseen cupeld of which an earlier error told; nil: it has
// ended, or the error was of something else.
func (l layout) stillUnseen(last error) error {
	held, ok := errors.AsType[*lockedError](last)
	if !ok || !held.unlinked {
		return nil
	}
	return l.unseenLock(held.pid)
}

// moved is the error of the cupeld that holds our lock, if the name by which it was started
// leads to this folder no more.
func (l layout) moved(held *lockedError) *awayError {
	c, ok := procfs.CommandOf(held.pid)
	name := startedOn(c)
	if !ok || c.Name != "cupeld" || !held.what.daemon() || name == "" {
		return nil
	}

	if !exists(l.dir) || layoutAt(name).leadsTo(l) {
		return nil
	}
	return &awayError{dir: name, now: l.dir, cupeld: held.pid}
}
