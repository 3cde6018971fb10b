package castest

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // plays whoever owns the disk

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestOldRowPutBack plays the operator who stops the CAS, puts one row of an
// older copy of its database under the current log, and starts it again: a
// replica would get the volume's older state, and a session its older text.
func TestOldRowPutBack(t *testing.T) {
	for _, row := range []string{"volume/x@genesis", "session/x"} {
		t.Run(filepath.Base(row), func(t *testing.T) {
			e := begin(t, Options{})
			o := e.Owner(t)
			v1 := create(t, o, sessionText("x"))
			pull, r := mustRelease(t, e.Instance(t, "x", "pull_repo", pullCode))
			v := r.Volumes[0]
			commit := func(from uint64, fromTag, tag ident.Digest) {
				t.Helper()
				if err := pull.Post(wire.PathTag, wire.TagRequest{Version: 1, Volume: v.ID, Lease: v.Lease, From: from, FromTag: fromTag, Tag: tag}, nil); err != nil {
					t.Fatal(err)
				}
			}
			commit(0, ident.Digest{}, ident.Digest{1})
			old := readRow(t, e.Dir, row)
			commit(1, ident.Digest{1}, ident.Digest{2})
			create(t, o, append([]byte("predecessor: "+v1.String()+"\n"), sessionText("x")...))
			e.Stop()
			writeRow(t, e.Dir, row, old)

			again := begin(t, Options{Dir: e.Dir})
			_, _, err := again.Instance(t, "x", "client-app", appCode).Release(t.Context())
			refused(t, err, "row_rolled_back")
		})
	}
}

type rawRow struct {
	version int64
	sealed  []byte
}

func database(t *testing.T, dir string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "cas.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func readRow(t *testing.T, dir, id string) (r rawRow) {
	t.Helper()
	err := database(t, dir).QueryRow("SELECT version, sealed FROM rows WHERE id = ?", id).Scan(&r.version, &r.sealed)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func writeRow(t *testing.T, dir, id string, r rawRow) {
	t.Helper()
	res, err := database(t, dir).Exec("UPDATE rows SET version = ?, sealed = ? WHERE id = ?", r.version, r.sealed, id)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("%d rows, %v", n, err)
	}
}

// TestNothingPlainOnDisk: what owners entrust is in no file of the state.
func TestNothingPlainOnDisk(t *testing.T) {
	e := begin(t, Options{})
	create(t, e.Owner(t), sessionText("x"))
	_, r := mustRelease(t, e.Instance(t, "x", "pull_repo", pullCode))
	_, app := mustRelease(t, e.Instance(t, "x", "client-app", appCode))
	e.Stop()
	for _, name := range []string{"cas.db", "cas.db-wal"} {
		b, err := os.ReadFile(filepath.Join(e.Dir, name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for what, plain := range map[string]string{
			"token": "t0ken", "volume key": string(r.Volumes[0].Key), "generated secret": string(app.Files[2].Content), "session": "CUPEL_PULL_DIR",
		} {
			if contains(b, plain) {
				t.Errorf("%s holds the %s", name, what)
			}
		}
	}
}
