package leak

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"strings"

	_ "modernc.org/sqlite" // the database/sql driver "sqlite"
)

// Database searches every value of an SQLite database, and returns how many
// there are. A file has long values in pieces, a page each, so that the search of
// its bytes may miss a secret; but it sees what was deleted. The database must
// not be in use: its write-ahead log, if one was left, is applied.
func (s *Searcher) Database(ctx context.Context, path string) (found []Finding, values int, err error) {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: "mode=rw"}).String())
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = db.Close() }()

	tables, err := texts(ctx, db, `SELECT name FROM sqlite_master WHERE type = 'table'`)
	if err != nil {
		return nil, 0, fmt.Errorf("search %s: %w", path, err)
	}

	for _, table := range tables {
		f, n, err := s.table(ctx, db, path, table)
		found = append(found, f...)
		values += n
		if err != nil {
			return found, values, fmt.Errorf("search %s: %w", path, err)
		}
	}

	return unique(found), values, nil
}

// texts are the only column of a query's rows.
func texts(ctx context.Context, db *sql.DB, query string) ([]string, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()

	var out []string

	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}

		out = append(out, text)
	}

	return out, rows.Err()
}

// table searches every value of one table, packed or not.
func (s *Searcher) table(ctx context.Context, db *sql.DB, path, table string) (found []Finding, values int, err error) {
	rows, err := db.QueryContext(ctx, `SELECT * FROM "`+strings.ReplaceAll(table, `"`, `""`)+`"`)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = rows.Close() }()

	columns, err := rows.Columns()
	if err != nil {
		return nil, 0, err
	}

	row := make([]sql.RawBytes, len(columns))
	into := make([]any, len(columns))
	for i := range row {
		into[i] = &row[i]
	}

	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return found, values, err
		}

		for i, value := range row {
			where := fmt.Sprintf("%s (%s.%s)", path, table, columns[i])
			found = append(found, s.match(value, where)...)

			if unpacker(value[:min(len(value), headSize)]) != nil {
				f, err := s.Reader(bytes.NewReader(value), where)
				found = append(found, f...)
				if err != nil {
					return found, values, err
				}
			}

			values++
		}
	}

	return unique(found), values, rows.Err()
}
