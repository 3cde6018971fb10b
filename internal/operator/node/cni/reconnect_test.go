package cni

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestConnectionsWaitForNoPipe: what is no file among what CNI wrote down is passed by.
func TestConnectionsWaitForNoPipe(t *testing.T) {
	n := &Network{cfg: Config{Dir: t.TempDir()}}
	dir := filepath.Join(n.cfg.Dir, "cache", "results")
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "a folder"), 0o700),
		unix.Mkfifo(filepath.Join(dir, "a pipe"), 0o600),
		os.WriteFile(filepath.Join(dir, "i-1"), []byte(`{"containerId":"i-1"}`), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	if got := n.connections(); len(got) != 1 || got[0].ContainerID != "i-1" {
		t.Errorf("%+v", got)
	}
}
