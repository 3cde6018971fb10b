package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// forget puts the records of instances aside whose manager's database is gone or
// damaged, now that none of them runs any more: nobody asks for them again, and the
// next start begins with a new database. Nothing else of an installation that served may
// be made anew.
func (l layout) forget(ctx context.Context, log *slog.Logger) error {
	instances := filepath.Join("node", "instances")
	records, err := os.ReadDir(l.path(instances))
	if err == nil && len(records) > 0 { // where there is no such folder, the next start says what is wrong
		if err := l.putAside(instances); err != nil {
			return fmt.Errorf("put the records of instances aside, whose manager is gone: %w", err)
		}
		log.WarnContext(ctx, "what was known of the instances was put aside, since the manager's database can't be read",
			"to", l.path(damagedFolder, filepath.Base(instances)))
	}

	if err := atomicfile.Write(l.path(forgottenFile), nil, 0o600); err != nil {
		return fmt.Errorf("keep that the manager's database may be made anew: %w", err)
	}
	return nil
}

// remember forgets that the manager's database was given up, now that there is one.
func (l layout) remember() error { return ignoreMissing(os.Remove(l.path(forgottenFile))) }

// managerLost says that the manager's database is damaged, or gone although there has to
// be one.
func (l layout) managerLost(ctx context.Context) bool {
	file := l.path("manager.db")
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return l.managerExpected()
	}

	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return true
	}

	store, err := managerdb.Open(ctx, file)
	if err != nil {
		return problem.Is(err, problem.RuleStateDamaged)
	}
	defer func() { _ = store.Close() }()
	_, err = store.Load(ctx)
	return problem.Is(err, problem.RuleStateDamaged)
}
