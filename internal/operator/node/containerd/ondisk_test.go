package containerd_test

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/testing/need"
)

// TestPowerCutAfterPull: what is in an image that was brought is on the disk. The disk is
// copied at that moment, with what the kernel still holds back left out, as a power cut
// leaves it.
func TestPowerCutAfterPull(t *testing.T) {
	m := newMachine(t)
	need.Programs(t, "mkfs.ext4", "mount", "cp")
	program := make([]byte, 1<<20)
	_, _ = rand.Read(program)
	m.pushImage(archive(t, "bin/app", program))
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	attach(t, disk, filepath.Dir(m.state))
	if err := os.Mkdir(m.state, 0o711); err != nil {
		t.Fatal(err)
	}

	l := m.live()
	defer func() { l.leave() }()
	if _, err := l.node.EnsureImage(t.Context(), l.image); err != nil {
		t.Fatal(err)
	}
	after, there := disk+".after", t.TempDir()
	if out, err := exec.Command("cp", "--sparse=always", disk, after).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	attach(t, after, there)
	files, err := filepath.Glob(filepath.Join(there, filepath.Base(m.state), "containerd/root/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs/bin/app"))
	if err != nil || len(files) != 1 {
		t.Fatalf("unpacked: %q, %v", files, err)
	}
	if got, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(got, program) {
		t.Errorf("%d bytes of %d are on the disk, or others: %v", len(got), len(program), err)
	}
}

// attach mounts the filesystem in a file.
func attach(t *testing.T, file, at string) {
	t.Helper()
	if out, err := exec.Command("mount", "-o", "loop", file, at).CombinedOutput(); err != nil {
		need.Missing(t, "a loop device: "+strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
}

// archive is a layer with one program.
func archive(t *testing.T, name string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
