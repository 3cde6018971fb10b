package logfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestDamagedLog: what is no file in a log's folder is gone by, by who writes and by who
// reads.
func TestDamagedLog(t *testing.T) {
	dir := t.TempDir()
	err := errors.Join(
		os.Mkdir(fileName(dir, 1), 0o700),
		unix.Mkfifo(fileName(dir, 3), 0o600),
		os.Symlink("/nonexistent/folder/x", fileName(dir, 4)),
		os.Mkdir(filepath.Join(dir, lockName), 0o700),
	)
	if err != nil {
		t.Fatal(err)
	}

	lock, err := lockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if abandoned, err := Abandoned(dir); err != nil || abandoned {
		t.Errorf("abandoned: %v, %v", abandoned, err)
	}
	w, err := NewWriter(dir, Limits{Size: 100, Keep: 5}, clock())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Copy("stdout", strings.NewReader("one\ntwo\nthree\n")); err != nil { // a file for each
		t.Error(err)
	}
	if err := errors.Join(w.Close(), lock.Close()); err != nil {
		t.Fatal(err)
	}

	want := []string{"stdout:one", "stdout:two", "stdout:three"}
	if diff := cmp.Diff(want, read(t, dir, Options{Tail: -1})); diff != "" {
		t.Error(diff)
	}
}

// TestUnwritableLog: where nothing can be written, the output is read all the same, and
// written again once it can be.
func TestUnwritableLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(dir, Limits{Size: 100, Keep: 5}, clock())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Copy("stdout", strings.NewReader("lost\nlost\n")); err == nil {
		t.Error("no error says that lines are lost")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Write("stdout", "kept"), w.Close()); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(fileName(dir, 1)); err != nil || !strings.Contains(string(b), "kept") {
		t.Errorf("%q, %v", b, err)
	}
}
