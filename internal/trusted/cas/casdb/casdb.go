package casdb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/diskerror"
)

// migrations lead from schema version n (the index) to n+1. They are never
// changed once released; new ones are added.
var migrations = [...]string{
	`CREATE TABLE rows (
		id      TEXT PRIMARY KEY,
		version INTEGER NOT NULL,
		sealed  BLOB NOT NULL
	) STRICT, WITHOUT ROWID;
	-- One record per commit: its entries as a JSON list, and the head after them.
	CREATE TABLE log (
		last    INTEGER PRIMARY KEY,
		entries TEXT NOT NULL,
		head    TEXT NOT NULL
	) STRICT;`,
}

// appID marks the file as ours: "CPLC".
const appID = 0x43504c43

// DB is an open database.
type DB struct {
	dir   string // where the file is
	write *sql.DB
	read  *sql.DB
	stmt  statements
}

// statements are the prepared queries.
type statements struct {
	putRow, deleteRow, appendLog *sql.Stmt // on write
	row, head, entries           *sql.Stmt // on read
}

// Exists reports whether there is a database at path.
func Exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Open opens the database at path, making or migrating it as needed.
func Open(ctx context.Context, path string) (*DB, error) {
	db := &DB{dir: filepath.Dir(path)}
	var err error

	if db.write, err = connect(path, 1); err != nil {
		return nil, err
	}
	if db.read, err = connect(path, 4); err != nil {
		return nil, errors.Join(err, db.write.Close())
	}

	if err := db.prepare(ctx, path); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// connect opens at most n connections to the file.
func connect(path string, n int) (*sql.DB, error) {
	path, err := filepath.Abs(path) // a relative one would be the URL's host
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}

	q := url.Values{
		"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "trusted_schema(OFF)"},
		"_txlock": {"immediate"},
		// The index of the write-ahead log is in memory, not in a file beside it, for
		// which a full disk had no room: https://www.sqlite.org/vfs.html
		"vfs": {"unix-excl"},
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}

	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// prepare migrates the database and prepares the queries.
func (db *DB) prepare(ctx context.Context, path string) error {
	if err := db.migrate(ctx, path); err != nil {
		return err
	}

	var errs []error
	on := func(c *sql.DB, query string) *sql.Stmt {
		s, err := c.PrepareContext(ctx, query)
		errs = append(errs, err)
		return s
	}
	db.stmt = statements{
		putRow: on(db.write, `INSERT INTO rows (id, version, sealed) VALUES (?1, ?2, ?3)
			ON CONFLICT (id) DO UPDATE SET version = ?2, sealed = ?3`),
		deleteRow: on(db.write, `DELETE FROM rows WHERE id = ?1`),
		appendLog: on(db.write, `INSERT INTO log (last, entries, head) VALUES (?1, ?2, ?3)`),
		row:       on(db.read, `SELECT version, sealed FROM rows WHERE id = ?1`),
		head:      on(db.read, `SELECT head FROM log ORDER BY last DESC LIMIT 1`),
		entries:   on(db.read, `SELECT entries FROM log WHERE last > ?1 ORDER BY last`),
	}

	if err := errors.Join(errs...); err != nil {
		return db.failed("prepare the database", err)
	}
	return nil
}

// migrate leads the schema to the newest version, in one transaction, or refuses a
// file that is not ours or newer than we are.
func (db *DB) migrate(ctx context.Context, path string) error {
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return db.failed("open the database "+path, err)
	}
	defer func() { _ = tx.Rollback() }()

	var have, app int
	if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&have); err != nil {
		return db.failed("read the schema version of "+path, err)
	}
	if err := tx.QueryRowContext(ctx, `PRAGMA application_id`).Scan(&app); err != nil {
		return db.failed("read the application id of "+path, err)
	}

	switch {
	case have > len(migrations):
		return problem.New(problem.Invalid, problem.RuleStateNewer, "%s has schema version %d", path, have).
			Want("at most %d", len(migrations)).
			Fix("run the newer cupel-cas that wrote it")
	case have > 0 && app != appID:
		return problem.New(problem.Invalid, ruleStateForeign, "%s is another program's database", path).
			Fix("give the CAS a state folder of its own")
	case have == len(migrations):
		return nil
	}

	for _, m := range migrations[have:] {
		if _, err := tx.ExecContext(ctx, m); err != nil {
			return db.failed("migrate "+path, err)
		}
	}
	for _, pragma := range []string{
		fmt.Sprintf(`PRAGMA user_version = %d`, len(migrations)),
		fmt.Sprintf(`PRAGMA application_id = %d`, appID),
	} {
		if _, err := tx.ExecContext(ctx, pragma); err != nil {
			return db.failed("migrate "+path, err)
		}
	}

	if err := tx.Commit(); err != nil {
		return db.failed("migrate "+path, err)
	}
	return nil
}

// Close ends all connections; SQLite folds the WAL into the file.
func (db *DB) Close() error { return errors.Join(db.read.Close(), db.write.Close()) }

// Commit implements journal.Store.
func (db *DB) Commit(ctx context.Context, b journal.Batch) error {
	entries, err := json.Marshal(b.Entries)
	if err != nil {
		return fmt.Errorf("marshal audit entries: %w", err)
	}
	head, err := json.Marshal(b.Head)
	if err != nil {
		return fmt.Errorf("marshal audit head: %w", err)
	}

	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return db.failed("begin", err)
	}
	defer func() { _ = tx.Rollback() }()

	for _, r := range b.Rows {
		if r.Sealed == nil {
			_, err = tx.StmtContext(ctx, db.stmt.deleteRow).ExecContext(ctx, r.ID)
		} else {
			_, err = tx.StmtContext(ctx, db.stmt.putRow).ExecContext(ctx, r.ID, int64(r.Version), r.Sealed)
		}
		if err != nil {
			return db.failed("write row", err)
		}
	}

	if _, err = tx.StmtContext(ctx, db.stmt.appendLog).ExecContext(ctx, int64(b.Head.Seq), string(entries), string(head)); err != nil {
		return db.failed("write audit log", err)
	}
	if err := tx.Commit(); err != nil {
		return db.failed("commit", err)
	}
	return nil
}

// Head implements journal.Store.
func (db *DB) Head(ctx context.Context) (owners.SignedHead, error) {
	var text []byte
	var h owners.SignedHead
	err := db.stmt.head.QueryRowContext(ctx).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return h, nil
	}

	if err != nil {
		return h, db.failed("read audit head", err)
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return h, logDamaged(err)
	}
	return h, nil
}

// Row implements journal.Store.
func (db *DB) Row(ctx context.Context, id journal.RowID) (journal.Row, bool, error) {
	r := journal.Row{ID: id}
	var v int64
	err := db.stmt.row.QueryRowContext(ctx, id).Scan(&v, &r.Sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return journal.Row{}, false, nil
	}
	if err != nil {
		return journal.Row{}, false, db.failed("read row", err)
	}

	r.Version = uint64(v)
	return r, true, nil
}

// Entries implements journal.Store. A record holds all entries of a commit, so the
// first one may begin before those asked for.
func (db *DB) Entries(ctx context.Context, after uint64, limit int) ([]owners.Entry, error) {
	rows, err := db.stmt.entries.QueryContext(ctx, int64(min(after, 1<<62)))
	if err != nil {
		return nil, db.failed("read audit log", err)
	}
	defer func() { _ = rows.Close() }()

	var out []owners.Entry
	size := 0
	for len(out) < limit && size < journal.PageBytes && rows.Next() {
		var text []byte
		if err := rows.Scan(&text); err != nil {
			return nil, db.failed("read audit log", err)
		}
		size += len(text)
		var batch []owners.Entry
		if err := json.Unmarshal(text, &batch); err != nil {
			return nil, logDamaged(err)
		}
		for _, e := range batch {
			if e.Seq > after && len(out) < limit {
				out = append(out, e)
			}
		}
	}

	if err := rows.Err(); err != nil {
		return nil, db.failed("read audit log", err)
	}
	return out, nil
}

// logDamaged is a record of the log that can't be read.
func logDamaged(err error) error {
	return problem.New(problem.Internal, problem.RuleAuditLogDamaged, "a record of the audit log is not JSON: %w", err).
		Fix("look at the disk where the CAS keeps its state (dmesg), and copy what is there elsewhere; then put the CAS's state back from its backup")
}

// failed turns an error of SQLite into one that a person can act on.
func (db *DB) failed(what string, err error) error {
	err = diskerror.Explain(fmt.Errorf("%s: %w", what, err), db.dir, "the CAS's state")
	if _, explained := errors.AsType[*problem.Error](err); explained {
		return err
	}

	if serr, ok := errors.AsType[*sqlite.Error](err); ok {
		switch serr.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			return problem.New(problem.Unavailable, problem.RuleStore, "%w", err).
				Fix("look at the disk where the CAS keeps its state, then try again")
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return problem.New(problem.Internal, problem.RuleStateDamaged, "%w", err).
				Fix("look at the disk where the CAS keeps its state (dmesg), and copy what is there elsewhere; then put the CAS's state back from its backup")
		case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY:
			return problem.New(problem.Invalid, problem.RuleStateAccess, "%w", err).
				Fix("let the CAS's user own its state folder and everything in it")
		}
	}

	if strings.Contains(err.Error(), "database is closed") {
		return problem.New(problem.Unavailable, ruleStoreClosed, "%w", err)
	}
	return err
}
