package containerd_test

import (
	"os"
	"path/filepath"
	"testing"
)

// TestSnapshotsLost: where containerd lost the list of what it unpacked, or a folder of it,
// the image is unpacked again, and instances start.
func TestSnapshotsLost(t *testing.T) {
	m := newMachine(t)
	m.pushImage(archive(t, "bin/app", []byte("a program")))
	l := m.live()
	defer func() { l.leave() }()
	l.start("i-before", "exit", 0)
	l.status("i-before", exited)
	l.kill()
	if err := l.daemon.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(m.state, "containerd/root/io.containerd.snapshotter.v1.overlayfs/metadata.db"), 0); err != nil {
		t.Fatal(err)
	}
	l = m.live()
	l.start("i-after", "exit", 0)
	l.status("i-after", exited)
}
