package filelock_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cupel.dev/cupel/internal/trusted/filelock"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	one, other, third := open(t, path), open(t, path), open(t, path)

	if err := errors.Join(filelock.TryShared(one), filelock.TryShared(other)); err != nil {
		t.Fatalf("two share a lock: %v", err)
	}
	if err := filelock.Try(third); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("a shared lock was taken by one alone: %v", err)
	}

	soon, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := filelock.Wait(soon, third); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited for: %v", err)
	}

	got := make(chan error, 1)
	go func() { got <- filelock.Wait(t.Context(), third) }()
	if err := errors.Join(one.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("given up, and not got: %v", err)
	}
	if err := filelock.TryShared(open(t, path)); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("a lock of one alone was shared: %v", err)
	}
}

// TestClosedFile: what is no lock that somebody holds is said as it is.
func TestClosedFile(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "lock"))
	_ = f.Close()
	if err := filelock.Try(f); err == nil || errors.Is(err, filelock.ErrHeld) {
		t.Errorf("the lock of a closed file: %v", err)
	}
}
