package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/diskerror"
)

const (
	// reserveSize is kept aside twice, for what has to be written when cupeld starts
	// and when things are removed: some pages of the databases of manager, CAS and
	// containerd.
	reserveSize = 16 << 20
	// reserveFiles are kept aside for file systems that run out of inodes.
	reserveFiles = 256
)

// reserveFolder is where they are.
const reserveFolder = "reserve"

// reserve is a folder of files that only take up room, to be given back when the
// disk is full: a start takes one half, so that things can still be removed by the
// other.
type reserve struct {
	dir string
	mu  sync.Mutex
}

// halves are the files of room, in the order in which they are given back.
func (r *reserve) halves() []string {
	return []string{filepath.Join(r.dir, "start"), filepath.Join(r.dir, "removal")}
}

// files is the folder of the files that only take up inodes.
func (r *reserve) files() string { return filepath.Join(r.dir, "files") }

// fill makes what isn't there. A disk without room for it is no error: there is
// none then, or less.
func (r *reserve) fill() error {
	r.mu.Lock()
	defer r.mu.Unlock()

	if info, err := os.Stat(r.dir); err == nil && !info.IsDir() { // of an earlier release, or damaged: it holds nothing
		_ = os.Remove(r.dir)
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		if diskerror.Full(err) {
			return nil
		}
		return err
	}

	// The half that is given back last is the first to be had again.
	for _, path := range slices.Backward(r.halves()) {
		if err := fillHalf(path); err != nil {
			return err
		}
	}
	r.fillFiles()
	return nil
}

// fillFiles makes the files, where as many stay free.
func (r *reserve) fillFiles() {
	var stat unix.Statfs_t
	if err := unix.Statfs(r.dir, &stat); err == nil && stat.Files > 0 && stat.Ffree < 2*reserveFiles {
		return
	}

	if err := os.Mkdir(r.files(), 0o700); err != nil {
		return // they are there, or there is no room for them
	}

	for n := range reserveFiles {
		f, err := os.Create(filepath.Join(r.files(), fmt.Sprint(n)))
		if err != nil {
			_ = os.RemoveAll(r.files())
			return
		}
		_ = f.Close()
	}
}

// fillHalf takes as much again only where as much stays free, so that it never takes
// the last of what it gave.
func fillHalf(path string) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &stat); err == nil && stat.Bavail*uint64(stat.Bsize) < 2*reserveSize {
		return nil
	}

	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist), diskerror.Full(err):
		return nil
	case err != nil:
		return err
	}

	if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, reserveSize), f.Close()); err != nil {
		_ = os.Remove(path)
	}
	return nil
}

// release gives one half back, and all files, and tells whether there was any.
func (r *reserve) release() bool {
	r.mu.Lock()
	defer r.mu.Unlock()

	_, err := os.Readlink(r.dir)
	had := err != nil && os.Remove(r.dir) == nil // of an earlier release, or empty
	if _, err := os.Lstat(r.files()); err == nil {
		had = os.RemoveAll(r.files()) == nil
	}

	for _, path := range r.halves() {
		if os.Remove(path) == nil {
			return true
		}
	}
	return had
}

// roomyStore is a manager's store that can be written to on a full disk, for
// removals. After one of them the reserve is filled again.
type roomyStore struct {
	manager.Store
	reserve *reserve
}

// Apply implements manager.Store.
func (s roomyStore) Apply(ctx context.Context, c manager.Change) ([]manager.Event, error) {
	events, err := s.Store.Apply(ctx, c)
	for problem.Is(err, diskerror.RuleFull) && removes(c) && s.reserve.release() {
		events, err = s.Store.Apply(ctx, c)
	}

	if err == nil && len(c.DeleteApps) > 0 {
		_ = s.reserve.fill() // the change itself is done; the next start says what is wrong
	}
	return events, err
}

// removes says whether a change is a step of removing something.
func removes(c manager.Change) bool {
	return len(c.DeleteApps) > 0 || len(c.DeleteReplicas) > 0 ||
		slices.ContainsFunc(c.Apps, func(a *manager.App) bool { return a.Removing }) ||
		slices.ContainsFunc(c.Replicas, func(i *manager.Replica) bool { return i.Removing || i.Done })
}
