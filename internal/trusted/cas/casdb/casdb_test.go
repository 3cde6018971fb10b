package casdb

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/testing/storetest"
	"cupel.dev/cupel/internal/trusted/cas/journal"
)

func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cas.db")
	storetest.Run(t, func(t *testing.T) (journal.Store, func()) {
		db, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		return db, func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func exec(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, path string)
		rule    string
	}{
		"newer schema": {func(t *testing.T, path string) {
			open(t, path)
			exec(t, path, "PRAGMA user_version = 99")
		}, "state_newer"},
		"another program's": {func(t *testing.T, path string) {
			exec(t, path, "CREATE TABLE x (y); PRAGMA user_version = 1")
		}, "state_foreign"},
		"not a database": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "state_damaged"},
		"a folder": {func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "state_access"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cas.db")
			c.prepare(t, path)
			db, err := Open(t.Context(), path)
			if err == nil {
				_ = db.Close()
				t.Fatal("opened")
			}
			if p := problem.From(err); string(p.Rule) != c.rule || p.Mend == "" {
				t.Errorf("%v; want rule %s", err, c.rule)
			}
			t.Log(err)
		})
	}
}

func open(t *testing.T, path string) {
	t.Helper()
	db, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDiskFull fills a small file system: the commit fails as a whole, with the
// mend, and works again when there is room.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("cupel-casdb-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		need.Missing(t, "root: "+err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	db, err := Open(t.Context(), filepath.Join(dir, "cas.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	ctx := context.Background()
	small := func(seq uint64) journal.Batch {
		return journal.Batch{Rows: []journal.Row{{ID: "small", Version: seq, Sealed: []byte("x")}}, Head: owners.SignedHead{Seq: seq}}
	}
	if err := db.Commit(ctx, small(1)); err != nil {
		t.Fatal(err)
	}
	big := journal.Batch{Rows: []journal.Row{{ID: "small", Version: 2, Sealed: []byte("y")}, {ID: "big", Version: 1, Sealed: make([]byte, 2<<20)}}, Head: owners.SignedHead{Seq: 2}}
	err = db.Commit(ctx, big)
	if p := problem.From(err); err == nil || p.Rule != "disk_full" || p.Kind != problem.Unavailable {
		t.Fatalf("%v; want rule disk_full", err)
	}
	t.Log(err)
	if h, err := db.Head(ctx); err != nil || h.Seq != 1 {
		t.Errorf("head %+v, %v", h, err)
	}
	if r, ok, err := db.Row(ctx, "small"); err != nil || !ok || r.Version != 1 {
		t.Errorf("row %+v, %v, %v", r, ok, err)
	}
	if err := db.Commit(ctx, small(2)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestRelativePath: a path is one of the working folder, not a host of a URL.
func TestRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	db, err := Open(t.Context(), "cas.db")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if !Exists("cas.db") {
		t.Error("it lies elsewhere")
	}
}
