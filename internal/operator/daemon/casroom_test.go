package daemon

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/need"
)

// ext4 mounts a file system that keeps its last blocks for root.
func ext4(t *testing.T, size int64) string {
	t.Helper()
	need.Root(t)
	need.Programs(t, "mkfs.ext4")
	dir := folder(t)
	image := dir + ".ext4"
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", "-m", "20", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			need.Missing(t, "a loop device: "+strings.TrimSpace(string(out)))
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fillDisk leaves no byte, not even for root.
func fillDisk(t *testing.T, dir string) (filler string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for size := int64(1 << 30); size > 1<<20; {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Fallocate(int(f.Fd()), 0, info.Size(), size); err != nil {
			size /= 2
		}
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for size := len(block); size > 0; {
		if _, err := f.Write(block[:size]); err != nil {
			size /= 2
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// TestWholeOnADiskThatRootFilled: what runs is adopted and can be stopped in order, by
// what was kept aside; without it up says that the disk is full, and what doesn't need to
// write ends by force.
func TestWholeOnADiskThatRootFilled(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a binary")
	}
	o := upOptions(t)
	o.State = filepath.Join(ext4(t, 700<<20), "state")
	o.CAS = casBinary(t)
	_, end := begin(t, o)
	if err := end(nil); err != nil { // as after kill -9: containerd runs on
		t.Fatal(err)
	}
	filler := fillDisk(t, filepath.Dir(o.State))

	serving := errors.New("it serves")
	up := func() error {
		var low *problem.Error
		err := Up(t.Context(), o, slog.New(slog.DiscardHandler), func(s Serving) error {
			low = s.DiskFull
			return serving
		})
		if errors.Is(err, serving) && (low == nil || low.Rule != "disk_full") {
			t.Errorf("it serves and doesn't say that the disk is full: %v", low)
		}
		return err
	}
	if err := up(); !errors.Is(err, serving) {
		t.Fatalf("up: %v", err)
	}
	if err := stopAll(t.Context(), o, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("down: %v", err)
	}

	if err := errors.Join(os.RemoveAll(filepath.Join(o.State, "reserve")), os.Remove(filler)); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, filepath.Dir(o.State))
	err := up()
	if p := problem.From(err); err == nil || p.Rule != "disk_full" || p.Mend == "" {
		t.Errorf("up without what was kept aside: %v", err)
	}
	t.Log(err)
	o.Force = true
	if err := stopAll(t.Context(), o, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("down by force: %v", err)
	}
	nothingLeft(t, o)
}

// casBinary builds the CAS.
func casBinary(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "cupel-cas")
	if out, err := exec.Command("go", "build", "-o", binary, "cupel.dev/cupel/cmd/cupel-cas").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return binary
}

// realCAS is one with its own database below dir.
func realCAS(t *testing.T, dir string) *casProcess {
	t.Helper()
	const uid = 61234
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chown(dir, uid, uid)); err != nil {
		t.Fatal(err)
	}
	return &casProcess{
		binary: casBinary(t), dir: dir, uid: uid, logs: io.Discard, log: slog.New(slog.DiscardHandler),
		attester: fakeAttester{make(chan ident.Measurement, 100)}, owners: "127.0.0.1:0", instances: "127.0.0.1:0",
	}
}

// TestCASOnADiskThatRootFilled: what the reserve gives back on such a disk is root's
// alone, and the CAS, another user, comes up by it nevertheless; where there is none it
// says that the disk is full.
func TestCASOnADiskThatRootFilled(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a binary")
	}
	dir := ext4(t, 128<<20)
	c := realCAS(t, filepath.Join(dir, "cas"))
	begin := func() {
		t.Helper()
		r, err := c.start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r.stop()
	}
	begin()
	kept := &reserve{dir: filepath.Join(dir, "reserve")}
	if err := kept.fill(); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, dir)

	_, err := c.start(t.Context())
	if p := problem.From(err); err == nil || p.Rule != "disk_full" || !strings.Contains(p.Actual, "the CAS does not come up") || p.Mend == "" {
		t.Fatalf("without room: %v", err)
	}
	t.Log(err)
	if !kept.release() {
		t.Fatal("there was no reserve")
	}
	for range 20 { // each writes an entry of its own
		begin()
	}
}
