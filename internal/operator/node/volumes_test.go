package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"cupel.dev/cupel/internal/need"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/trusted/volume"
)

// replica keeps snapshots in memory.
type replica struct {
	stored map[string]string
	err    error
}

func (r *replica) Push(_ context.Context, id ident.Digest, generation uint64, size int64, open func() (io.ReadCloser, error)) error {
	if r.err != nil {
		return r.err
	}
	f, err := open()
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err == nil && int64(len(b)) != size {
		err = fmt.Errorf("%d bytes, announced %d", len(b), size)
	}
	r.stored[fmt.Sprint(id, generation)] = string(b)
	return err
}

func (r *replica) Pull(_ context.Context, id ident.Digest, generation uint64) (io.ReadCloser, error) {
	s, ok := r.stored[fmt.Sprint(id, generation)]
	if !ok {
		return nil, problem.New(problem.NotFound, "volume_missing", "none")
	}
	return io.NopCloser(strings.NewReader(s)), nil
}

// socketClient serves a node socket and returns its client.
func socketClient(t *testing.T, s *nodeSocket) *volume.Node {
	t.Helper()
	dir := t.TempDir()
	s.logger = slog.New(slog.DiscardHandler)
	if s.report == nil {
		s.report = func(context.Context, volume.Status) {}
	}
	if err := s.serve(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { settle(s) })
	return volume.NewNode(filepath.Join(dir, volume.NodeSocket))
}

// settle waits for requests under way and ends the socket.
func settle(s *nodeSocket) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = s.server.Shutdown(ctx)
}

func store(t *testing.T, r Replica) *volumeStore {
	t.Helper()
	return &volumeStore{dir: t.TempDir(), replica: r, logger: slog.New(slog.DiscardHandler), locks: map[ident.Digest]*sync.Mutex{}}
}

func get(t *testing.T, n *volume.Node, id ident.Digest, generation uint64) string {
	t.Helper()
	r, _, err := n.Get(t.Context(), id, generation)
	if err != nil {
		return problem.From(err).Rule
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestVolumeGenerations(t *testing.T) {
	s := store(t, nil)
	n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: s})
	id := ident.Digest{1}
	put := func(generation uint64, text string) {
		t.Helper()
		if err := n.Put(t.Context(), id, generation, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	put(1, "one")
	put(2, "two, never committed")
	put(2, "two")
	for g, want := range map[uint64]string{1: "one", 2: "two", 3: "volume_missing"} {
		if got := get(t, n, id, g); got != want {
			t.Errorf("generation %d: %q, want %q", g, got, want)
		}
	}
	put(3, "three")
	for g, want := range map[uint64]string{1: "volume_missing", 2: "two", 3: "three"} {
		if got := get(t, n, id, g); got != want {
			t.Errorf("generation %d: %q, want %q", g, got, want)
		}
	}
	if got := get(t, n, ident.Digest{2}, 1); got != "volume_missing" {
		t.Errorf("another volume: %q", got)
	}
}

func TestVolumeRefusals(t *testing.T) {
	s := store(t, nil)
	socket := &nodeSocket{memory: 1, volumes: s}
	n := socketClient(t, socket)
	id := ident.Digest{1}
	rule := func(err error) string {
		if err == nil {
			return ""
		}
		return problem.From(err).Rule
	}
	if got := rule(n.Put(t.Context(), id, 0, strings.NewReader("x"))); got != "generation" {
		t.Errorf("generation 0: %q", got)
	}
	if err := n.Put(t.Context(), id, 1, io.LimitReader(zeros{}, snapshotSlack+2)); err == nil {
		t.Error("larger than the memory: stored")
	}
	broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("broke off")))
	if err := n.Put(t.Context(), id, 1, broken); err == nil {
		t.Error("a body that broke off: stored")
	}
	if got := get(t, n, id, 1); got != "volume_missing" {
		t.Errorf("after refusals: %q", got)
	}
	settle(socket)
	if left, _ := filepath.Glob(filepath.Join(s.dir, "*", "*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if err := s.sweep(); err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestVolumeReplica(t *testing.T) {
	r := &replica{stored: map[string]string{}}
	s := store(t, r)
	n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: s})
	id := ident.Digest{1}
	if err := n.Put(t.Context(), id, 1, strings.NewReader("one")); err != nil {
		t.Fatal(err)
	}
	// The node's own copy is gone: another node asks.
	if err := os.Remove(s.path(id, 1)); err != nil {
		t.Fatal(err)
	}
	if got := get(t, n, id, 1); got != "one" {
		t.Errorf("from the replica: %q", got)
	}
	r.err = errors.New("down")
	err := n.Put(t.Context(), id, 2, strings.NewReader("two"))
	if p := problem.From(err); err == nil || p.Rule != "registry_unreachable" || p.Kind != problem.Unavailable {
		t.Errorf("with the registry down: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	need.Root(t)
	s := store(t, nil)
	if err := syscall.Mount("tmpfs", s.dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Unmount(s.dir, syscall.MNT_DETACH) }()
	n := socketClient(t, &nodeSocket{memory: 1 << 20, volumes: s})
	err := n.Put(t.Context(), ident.Digest{1}, 1, io.LimitReader(zeros{}, 1<<20))
	if p := problem.From(err); err == nil || p.Rule != "disk_full" || p.Mend == "" {
		t.Errorf("full disk: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "*", "*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestStatusReports(t *testing.T) {
	var got []volume.Status
	n := socketClient(t, &nodeSocket{report: func(_ context.Context, s volume.Status) { got = append(got, s) }})
	want := volume.Status{Phase: volume.Refused, Code: 3, Problem: problem.New(problem.Denied, "x", "y")}
	if err := n.Report(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Phase != volume.Refused || got[0].Code != 3 || got[0].Problem.Rule != "x" {
		t.Errorf("%+v", got)
	}
	if err := n.Report(t.Context(), volume.Status{Phase: "dancing"}); problem.KindOf(err) != problem.Invalid {
		t.Errorf("unknown phase: %v", err)
	}
}

func TestListenUnix(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again in the same directory
		l, err := ListenUnix(dir, "s.sock")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				c.Close()
			}
		}()
		t.Chdir(dir)
		c, err := net.Dial("unix", "s.sock")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "s.sock")); err != nil {
			t.Errorf("closing removed the socket: %v", err)
		}
	}
	if _, err := ListenUnix(dir+"/none", "s"); err == nil {
		t.Error("listens in no folder")
	}
}
