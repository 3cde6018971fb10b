package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cupel.dev/cupel/internal/trusted/problem"
)

// A state folder may be gone while things of it run: moved, removed, or on a disk that isn't
// mounted any more. What carries its name is found without it.

// gone says that there is no folder, or nothing of Cupel's in it.
func (l layout) gone() bool {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return !slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.Name() == filepath.Base(l.lockFile()) || slices.Contains(marks, e.Name())
	})
}

// endGone ends what still runs of a folder that is gone, and returns it in words. A cupeld
// among that could only lose what its apps wrote, so it is ended by force alone.
func (l layout) endGone(ctx context.Context, force bool) (ended []string, err error) {
	if !force {
		if err := l.abandoned(); err != nil {
			return nil, err
		}
	}
	left := l.processes()
	for _, p := range left {
		if !p.serves() {
			continue
		}
		if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return nil, fmt.Errorf("end cupeld (process %d): %w", p.pid, err)
		}
	}
	return inWords(left), l.sweep(ctx)
}

// serves tells of a process that it is a cupeld with a folder's lock.
func (p process) serves() bool {
	_, ok := lockOf(p.pid)
	return ok && p.name == "cupeld" && !p.writesLog
}

// lockOf is where the lock's file is now that a cupeld holds; not ok: it holds none.
func lockOf(pid int) (path string, ok bool) {
	open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is valid
	for _, fd := range open {
		path, err := os.Readlink(fd)
		path, removed := strings.CutSuffix(path, " (deleted)")
		if err != nil || filepath.Base(path) != filepath.Base(layout{}.lockFile()) {
			continue
		}
		if removed {
			path = ""
		}
		return path, true
	}
	return "", false
}

// abandoned refuses a folder that is gone where a cupeld still runs that was started there,
// and says where the folder is now, by that one's lock.
func (l layout) abandoned() error {
	left := l.processes()
	i := slices.IndexFunc(left, process.serves)
	if i < 0 {
		return nil
	}
	p := problem.New(problem.Conflict, ruleElsewhere, "%s is gone, and the cupeld that was started there (process %d) still runs", l.dir, left[i].pid).
		Want("the folder where it was, or nothing that runs")
	const force = "cupel down --force ends what runs as it is: what apps wrote into volumes since they stored them last is lost"
	lock, _ := lockOf(left[i].pid)
	dir := filepath.Dir(lock)
	if info, err := os.Stat(dir); lock == "" || err != nil || !info.IsDir() || dir == l.dir {
		return p.Fix("have it there again, if there still is one (a mount, a link, a move), then run this again; or %s", force)
	}
	return p.Fix("its folder is %s now: have it there again (a mount, a link, a move), then run this again; or %s", dir, force)
}

// inWords names processes, as people call them.
func inWords(list []process) []string {
	var words []string
	for _, p := range list {
		words = append(words, fmt.Sprintf("%s (process %d)", p.name, p.pid))
	}
	return words
}
