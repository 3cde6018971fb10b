package atomicfile_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// TestRead: files are read, and whatever else there may be is refused at once.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(at("file"), []byte("text"), 0o600), os.Mkdir(at("folder"), 0o700), unix.Mkfifo(at("pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if b, err := atomicfile.Read(at("file")); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	for name, want := range map[string]error{"folder": syscall.EISDIR, "none": fs.ErrNotExist, "pipe": nil} {
		_, err := atomicfile.Read(at(name))
		path, ok := errors.AsType[*fs.PathError](err)
		if !ok || path.Path != at(name) || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReadNamed: what a person names may be a pipe, and nobody waits for one longer than
// the person does.
func TestReadNamed(t *testing.T) {
	dir := t.TempDir()
	silent, pipe := filepath.Join(dir, "silent"), filepath.Join(dir, "pipe")
	if err := errors.Join(unix.Mkfifo(silent, 0o600), unix.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := atomicfile.ReadNamed(ctx, silent, 100); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits: %v", err)
	}
	if _, err := atomicfile.ReadNamed(t.Context(), "/dev/zero", 100); err == nil || err.Error() != "read /dev/zero: it has more than 100 bytes" {
		t.Errorf("a device: %v", err)
	}
	if b, err := atomicfile.ReadNamed(t.Context(), os.DevNull, 0); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	wrote := make(chan error)
	go func() { wrote <- os.WriteFile(pipe, []byte("text"), 0o600) }()
	b, err := atomicfile.ReadNamed(t.Context(), pipe, 4)
	if err := errors.Join(err, <-wrote); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestReadNoMore: of a file that is too large, or a pipe without an end, no more is read.
func TestReadNoMore(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
		for err == nil {
			_, err = f.Write([]byte("text"))
		}
		wrote <- err
	}()
	_, err := atomicfile.ReadNamed(t.Context(), pipe, 6)
	if large, ok := errors.AsType[*atomicfile.TooLargeError](err); !ok || large.Most != 6 {
		t.Error(err)
	}
	if err := <-wrote; !errors.Is(err, syscall.EPIPE) {
		t.Error(err)
	}
}
