package cli

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
)

// TestLauncherOfAPipe: what --launcher names may be a pipe, as <(...) of a shell.
func TestLauncherOfAPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	program := []byte("\x7fELF of a launcher")
	wrote := make(chan error, 1)
	go func() { wrote <- os.WriteFile(pipe, program, 0o600) }()
	got, err := launcherDigest(t.Context(), pipe)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil || got != ident.Sum(program) {
		t.Errorf("%v, %v", got, err)
	}
}
