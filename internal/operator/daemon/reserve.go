package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/problem"
)

// reserveSize is kept aside for what has to be written when things are removed:
// some pages of the manager's database and of containerd's.
const reserveSize = 16 << 20

// reserve is a file that only takes up room, to be given back when the disk is
// full: then things can still be removed.
type reserve struct {
	path string
	mu   sync.Mutex
}

// fill makes the reserve, if it isn't there. A disk without room for it is no
// error: there is none then.
func (r *reserve) fill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return problem.New(problem.Invalid, "state_folder", "%w", err)
	}
	err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, reserveSize), f.Close())
	if err != nil {
		_ = os.Remove(r.path)
	}
	return nil
}

// release gives the room back and tells whether there was any.
func (r *reserve) release() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return os.Remove(r.path) == nil
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
	if err != nil && problem.From(err).Rule == "disk_full" && removes(c) && s.reserve.release() {
		events, err = s.Store.Apply(ctx, c)
	}
	if err == nil && len(c.DeleteApps) > 0 {
		_ = s.reserve.fill() // the change itself is done; the next start says what is wrong
	}
	return events, err
}

// removes says whether a change is a step of removing something.
func removes(c manager.Change) bool {
	return len(c.DeleteApps) > 0 || len(c.DeleteInstances) > 0 ||
		slices.ContainsFunc(c.Apps, func(a *manager.App) bool { return a.Removing }) ||
		slices.ContainsFunc(c.Instances, func(i *manager.Instance) bool { return i.Removing || i.Done })
}
