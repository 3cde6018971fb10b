package leak

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestFindsInDatabase: a long value lies in a file in pieces, and in one of 4,000
// places a secret lies across two of them.
func TestFindsInDatabase(t *testing.T) {
	s, secret := newSecret(t)
	path := filepath.Join(t.TempDir(), "a b?.db")
	db, err := sql.Open("sqlite", "file:"+filepath.Dir(path)+"/a%20b%3f.db")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`CREATE TABLE "odd ""name" (k INTEGER PRIMARY KEY, v BLOB)`); err != nil {
		t.Fatal(err)
	}
	// The secret again and again: some of them lie across the pieces.
	split := slices.Concat(bytes.Repeat(secret, 1000))
	if _, err := db.Exec(`INSERT INTO "odd ""name" (v) VALUES (?), (?)`, split, gzipped(secret)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(file, secret); n >= 1000 {
		t.Errorf("all %d are whole in the file: values need no search of their own", n)
	}
	found, values, err := s.Database(t.Context(), path)
	if err != nil || values != 4 || len(found) != 2 {
		t.Errorf("found %v in %d values, %v; want both in 4", found, values, err)
	}
	if _, _, err := s.Database(t.Context(), filepath.Join(t.TempDir(), "none.db")); err == nil {
		t.Error("no database was searched")
	}
}
