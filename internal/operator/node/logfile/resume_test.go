package logfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestAbandoned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "i-1")
	expect := func(when string, want bool) {
		t.Helper()
		if got, err := Abandoned(dir); err != nil || got != want {
			t.Errorf("%s: abandoned %t, %v; want %t", when, got, err, want)
		}
	}
	expect("before its writer", false)
	lock, err := lockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	expect("with its writer", false)
	if _, err := lockFolder(dir); !errors.Is(err, errLocked) {
		t.Errorf("a second writer: %v", err)
	}
	_ = lock.Close()
	expect("after the writer's death", true)
	expect("looked at again", true)
	if lock, err = lockFolder(dir); err != nil {
		t.Fatalf("the next writer: %v", err)
	}
	if err := writer(t, dir, DefaultLimits()).Close(); err != nil {
		t.Fatal(err)
	}
	_ = lock.Close()
	expect("after the end", false)
}

func TestResumeTellsFailure(t *testing.T) {
	dir := t.TempDir()
	lock, err := lockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = lock.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, program := range []string{"/bin/false", filepath.Join(dir, "none")} {
		if err := Resume(program, dir, DefaultLimits(), r, r); err == nil {
			t.Errorf("%s: taken for a log writer", program)
		}
	}
}
