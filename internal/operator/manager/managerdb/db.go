package managerdb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite" // also the database/sql driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/diskerror"
)

// migrations[n] leads from schema n to n+1. Never change one: append.
var migrations = []string{
	`CREATE TABLE app (id TEXT PRIMARY KEY, doc TEXT NOT NULL) STRICT;
	 CREATE TABLE instance (id TEXT PRIMARY KEY, doc TEXT NOT NULL) STRICT;
	 CREATE TABLE event (
	   seq INTEGER PRIMARY KEY AUTOINCREMENT,
	   time INTEGER NOT NULL,
	   app_id TEXT NOT NULL, app TEXT NOT NULL, owner TEXT NOT NULL, instance TEXT NOT NULL,
	   reason TEXT NOT NULL, message TEXT NOT NULL, warning INTEGER NOT NULL
	 ) STRICT;`,
	`CREATE TABLE notice (id TEXT PRIMARY KEY, doc TEXT NOT NULL) STRICT;
	 CREATE TABLE code (id TEXT PRIMARY KEY, doc TEXT NOT NULL) STRICT;`,
	`CREATE INDEX event_owner ON event (owner, seq);`,
}

// How many events are kept at least: of each owner's apps, so that nobody's events
// push out another's, and in all. spare is how many more may gather before the
// oldest are deleted.
const (
	keptOfOwner = 5_000
	kept        = 50_000
	spare       = 1_000
)

// DB implements manager.Store.
type DB struct {
	db          *sql.DB
	path        string
	keptOfOwner int64
	kept        int64
}

var _ manager.Store = (*DB)(nil)

// Open opens the database at path and brings its schema up to date.
func Open(ctx context.Context, path string) (*DB, error) {
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: url.Values{
		"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(5000)", "foreign_keys(1)"},
		"_txlock": {"immediate"},
	}.Encode()}).String()

	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("open manager state: %w", err)
	}
	db.SetMaxOpenConns(4)
	// The driver would make it readable for everybody.
	if f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600); err == nil {
		_ = f.Close()
	}

	d := &DB{db: db, path: path, keptOfOwner: keptOfOwner, kept: kept}
	if err := d.migrate(ctx); err != nil {
		_ = db.Close()
		return nil, err
	}
	return d, nil
}

func (d *DB) migrate(ctx context.Context) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		var have int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
			return fmt.Errorf("read manager state: %w", err)
		}
		if have > len(migrations) {
			return problem.New(problem.Conflict, ruleSchemaNewer, "%s has schema %d", d.path, have).
				Want("at most %d", len(migrations)).
				Fix("run the cupeld that wrote it, or a newer one")
		}

		if have == len(migrations) {
			return nil // nothing is written: the disk may be full
		}
		for n := have; n < len(migrations); n++ {
			if _, err := tx.ExecContext(ctx, migrations[n]); err != nil {
				return fmt.Errorf("migrate manager state to schema %d: %w", n+1, err)
			}
		}

		_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", len(migrations)))
		return err
	})
}

// tx runs f in a transaction.
func (d *DB) tx(ctx context.Context, f func(*sql.Tx) error) error {
	return d.explain(d.begin(ctx, f))
}

// explain says what a person can do where the disk is full, or the database damaged.
func (d *DB) explain(err error) error {
	err = diskerror.Explain(err, filepath.Dir(d.path), "the state folder")
	if _, explained := errors.AsType[*problem.Error](err); err == nil || explained {
		return err
	}

	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return d.damaged(err)
		case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY:
			return problem.New(problem.Invalid, problem.RuleStateAccess, "%s: %w", d.path, err).
				Want("a file that root may write to").Fix("look what is at %s (ls -ld, lsattr), and move it away if it is no file", d.path)
		}
	}
	return err
}

// damaged is the refusal of a database that can't be read.
func (d *DB) damaged(err error) error {
	return problem.New(problem.Invalid, problem.RuleStateDamaged, "%s: %w", d.path, err).
		Fix("look at the disk (dmesg), and copy the file elsewhere; then put it back from a backup; without a backup: cupel down --force, move the file away, cupel up, and the apps' owners deploy them again")
}

func (d *DB) begin(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("manager state: %w", err)
	}

	if err := f(tx); err != nil {
		return errors.Join(err, ignoreDone(tx.Rollback()))
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("manager state: %w", err)
	}
	return nil
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// Close closes the database.
func (d *DB) Close() error { return d.db.Close() }

// Load returns the whole state.
func (d *DB) Load(ctx context.Context) (manager.State, error) {
	s := manager.State{
		Apps:     map[string]*manager.App{},
		Replicas: map[string]*manager.Replica{},
		Notices:  map[string]*manager.Notice{},
		Codes:    map[ident.Digest]*manager.UsedCode{},
	}

	err := d.docs(ctx, "SELECT id, doc FROM app", func(id string, doc []byte) error {
		a := new(manager.App)
		s.Apps[id] = a
		return json.Unmarshal(doc, a)
	})
	if err != nil {
		return s, err
	}

	err = d.docs(ctx, "SELECT id, doc FROM instance", func(id string, doc []byte) error {
		r := new(manager.Replica)
		s.Replicas[id] = r
		return json.Unmarshal(doc, r)
	})
	if err != nil {
		return s, err
	}

	err = d.docs(ctx, "SELECT id, doc FROM notice", func(id string, doc []byte) error {
		n := new(manager.Notice)
		s.Notices[id] = n
		return json.Unmarshal(doc, n)
	})
	if err != nil {
		return s, err
	}

	return s, d.docs(ctx, "SELECT id, doc FROM code", func(_ string, doc []byte) error {
		u := new(manager.UsedCode)
		if err := json.Unmarshal(doc, u); err != nil {
			return err
		}
		s.Codes[u.Code] = u
		return nil
	})
}

func (d *DB) docs(ctx context.Context, query string, each func(id string, doc []byte) error) error {
	rows, err := d.db.QueryContext(ctx, query)
	if err != nil {
		return d.explain(fmt.Errorf("read manager state: %w", err))
	}
	defer func() { _ = rows.Close() }()

	for rows.Next() {
		var id string
		var doc []byte
		if err := rows.Scan(&id, &doc); err != nil {
			return fmt.Errorf("read manager state: %w", err)
		}
		if err := each(id, doc); err != nil {
			return d.damaged(fmt.Errorf("row %q: %w", id, err))
		}
	}
	return d.explain(rows.Err())
}

// Apply carries out a change as one transaction.
func (d *DB) Apply(ctx context.Context, c manager.Change) ([]manager.Event, error) {
	events := append([]manager.Event(nil), c.Events...)
	err := d.tx(ctx, func(tx *sql.Tx) error {
		exec := func(query string, args ...any) error {
			_, err := tx.ExecContext(ctx, query, args...)
			if err != nil {
				return fmt.Errorf("write manager state: %w", err)
			}
			return nil
		}

		put := func(table, id string, v any) error {
			doc, err := json.Marshal(v)
			if err != nil {
				return err
			}
			return exec("INSERT INTO "+table+" (id, doc) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET doc = excluded.doc", id, string(doc))
		}

		for _, a := range c.Apps {
			if err := put("app", a.ID, a); err != nil {
				return err
			}
		}
		for _, r := range c.Replicas {
			if err := put("instance", r.ID, r); err != nil {
				return err
			}
		}
		for _, n := range c.Notices {
			if err := put("notice", n.ID, n); err != nil {
				return err
			}
		}
		for _, u := range c.Codes {
			if err := put("code", u.Code.String(), u); err != nil {
				return err
			}
		}

		for _, code := range c.DeleteCodes {
			if err := exec("DELETE FROM code WHERE id = ?", code.String()); err != nil {
				return err
			}
		}
		for _, id := range c.DeleteNotices {
			if err := exec("DELETE FROM notice WHERE id = ?", id); err != nil {
				return err
			}
		}
		for _, id := range c.DeleteReplicas {
			if err := exec("DELETE FROM instance WHERE id = ?", id); err != nil {
				return err
			}
		}
		for _, id := range c.DeleteApps {
			if err := exec("DELETE FROM app WHERE id = ?", id); err != nil {
				return err
			}
		}

		return d.addEvents(ctx, tx, events)
	})
	return events, err
}

// addEvents numbers events and writes them; the oldest make room.
func (d *DB) addEvents(ctx context.Context, tx *sql.Tx, events []manager.Event) error {
	for i := range events {
		e := &events[i]
		r, err := tx.ExecContext(ctx, `INSERT INTO event (time, app_id, app, owner, instance, reason, message, warning)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			e.Time.UnixNano(), e.AppID, e.App, e.Owner.String(), e.Instance, e.Reason, e.Message, e.Warning)
		if err != nil {
			return fmt.Errorf("write event: %w", err)
		}

		seq, err := r.LastInsertId()
		if err != nil {
			return fmt.Errorf("write event: %w", err)
		}
		e.Seq = uint64(seq)
	}

	if len(events) == 0 || (events[0].Seq-1)/spare == events[len(events)-1].Seq/spare {
		return nil
	}
	return d.makeRoom(ctx, tx)
}

// makeRoom deletes the oldest events of whoever has many, and where all are too many,
// of those that have most.
func (d *DB) makeRoom(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM event WHERE seq IN (
		SELECT seq FROM (
			SELECT seq, nth, row_number() OVER (ORDER BY nth, seq DESC) AS rank FROM (
				SELECT seq, row_number() OVER (PARTITION BY owner ORDER BY seq DESC) AS nth FROM event))
		WHERE nth > ? OR rank > ?)`, d.keptOfOwner, d.kept)
	if err != nil {
		return fmt.Errorf("make room for events: %w", err)
	}
	return nil
}

// Events returns at most limit events after since, oldest first.
func (d *DB) Events(ctx context.Context, since uint64, f manager.EventFilter, limit int) ([]manager.Event, error) {
	owner := ""
	if !f.Owner.IsZero() {
		owner = f.Owner.String()
	}

	rows, err := d.db.QueryContext(ctx, `SELECT seq, time, app_id, app, owner, instance, reason, message, warning FROM event
		WHERE seq > ? AND (? = '' OR app_id = ? OR app = ?) AND (? = '' OR owner = ?) ORDER BY seq LIMIT ?`,
		int64(min(since, 1<<62)), string(f.App), string(f.App), string(f.App), owner, owner, limit)
	if err != nil {
		return nil, d.explain(fmt.Errorf("read events: %w", err))
	}
	defer func() { _ = rows.Close() }()

	var out []manager.Event
	for rows.Next() {
		var e manager.Event
		var nanos int64
		var key string
		if err := rows.Scan(&e.Seq, &nanos, &e.AppID, &e.App, &key, &e.Instance, &e.Reason, &e.Message, &e.Warning); err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}

		e.Time = time.Unix(0, nanos).UTC()
		if e.Owner, err = ident.ParseKeyHash(key); err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		out = append(out, e)
	}
	return out, d.explain(rows.Err())
}
