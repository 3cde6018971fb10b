package atomicfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// only checks that the folder holds this one file and nothing that was left over.
func only(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
		t.Fatalf("the folder has %v (%v)", entries, err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != content {
		t.Fatalf("content %q, %v: want %q", got, err, content)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
		t.Errorf("mode %v, %v: want %v", info.Mode(), err, mode)
	}
}

func TestReplaces(t *testing.T) {
	for name, write := range map[string]func(string, []byte, os.FileMode) error{"Write": atomicfile.Write, "Replace": atomicfile.Replace} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := write(path, []byte("old, and longer"), 0o644); err != nil {
				t.Fatal(err)
			}
			only(t, path, "old, and longer", 0o644)
			if err := write(path, []byte("new"), 0o600); err != nil {
				t.Fatal(err)
			}
			only(t, path, "new", 0o600)
		})
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			switch err := atomicfile.Create(path, []byte("first"), 0o600); {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("%d of 8 made the file", made.Load())
	}
	only(t, path, "first", 0o600)
}

func TestFailure(t *testing.T) {
	dir := t.TempDir()
	err := atomicfile.Write(filepath.Join(dir, "no", "file"), nil, 0o600)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "file") {
		t.Errorf("missing folder: %v", err)
	}
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(taken, nil, 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}
