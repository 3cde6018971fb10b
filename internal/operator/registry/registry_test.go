package registry

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/internal/trusted/wire"
)

// serve runs the embedded registry on loopback until stop or the test's end.
func serve(t *testing.T, dir string) (*Client, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Open(ctx, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	t.Cleanup(stop)
	return NewClient(ln.Addr().String()), stop
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return b
}

func opener(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

func TestSnapshots(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	c, stop := serve(t, dir)
	at := func(g uint64) wire.Snapshot {
		return wire.Snapshot{Volume: ident.Sum([]byte("genesis")), Generation: g, Tag: ident.Digest{byte(g)}}
	}
	for g := uint64(1); g <= 5; g++ {
		b := noise(g, 3<<20)
		if err := c.Push(ctx, at(g), int64(len(b)), opener(b)); err != nil {
			t.Fatalf("Push %d: %v", g, err)
		}
	}
	check := func(c *Client) {
		t.Helper()
		for g := uint64(1); g <= 5; g++ {
			r, err := c.Pull(ctx, at(g))
			if g < 4 {
				if err == nil || problem.KindOf(err) != problem.NotFound {
					t.Errorf("Pull %d: %v, want not found: the last two stay", g, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("Pull %d: %v", g, err)
			}
			b, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(b, noise(g, 3<<20)) {
				t.Errorf("Pull %d: other bytes (%d), %v", g, len(b), err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	check(c)
	before := size(t, dir)
	stop()
	c, _ = serve(t, dir) // collects
	check(c)
	if after := size(t, dir); after > 7<<20 || after >= before {
		t.Errorf("%d bytes on disk after collecting, %d before: want the last two snapshots", after, before)
	}
	if err := c.Push(ctx, at(6), 5, opener([]byte("other"))); err != nil {
		t.Errorf("Push after a restart: %v", err)
	}
	if err := c.Push(ctx, at(7), 4, opener([]byte("other"))); err == nil {
		t.Error("Push of another size than announced was accepted")
	}
	// Two of one generation, even with the same bytes: one goes, the other stays.
	twin := at(6)
	twin.Tag = ident.Digest{99}
	if err := c.Push(ctx, twin, 5, opener([]byte("other"))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Drop(ctx, at(6)); err != nil {
			t.Errorf("Drop: %v", err)
		}
	}
	if _, err := c.Pull(ctx, at(6)); problem.KindOf(err) != problem.NotFound {
		t.Errorf("Pull of what was dropped: %v", err)
	}
	r, err := c.Pull(ctx, twin)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "other" {
		t.Errorf("Pull of its twin: %q, %v", b, err)
	}
}

func size(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

type blobs map[ident.Digest][]byte

func (b blobs) Open(_ context.Context, d ident.Digest) (io.ReadCloser, error) {
	if c, ok := b[d]; ok {
		return io.NopCloser(bytes.NewReader(c)), nil
	}
	return nil, problem.New(problem.NotFound, "source_missing", "no %s", d)
}

func TestArtifact(t *testing.T) {
	ctx := t.Context()
	c, _ := serve(t, t.TempDir())
	deb, lock, definition := noise(1, 1<<20), []byte("lock\n"), []byte("definition\n")
	src := blobs{}
	for _, b := range [][]byte{deb, lock, definition} {
		src[ident.Sum(b)] = b
	}
	l := &rebuild.Lock{Version: 1, Runtime: "r", Packages: []rebuild.Package{{Name: "p", Blob: rebuild.Blob{
		Path: "pool/p.deb", SHA256: ident.Sum(deb), Size: int64(len(deb))}}}}
	manifest, err := rebuild.SourcesManifest(l, lock, definition)
	if err != nil {
		t.Fatal(err)
	}
	const ref = "runtimes/r/sources:abc"
	for range 2 { // the second time everything is there
		if err := c.PushArtifact(ctx, ref, manifest, src); err != nil {
			t.Fatal(err)
		}
	}
	rs, err := rebuild.ParseRegistrySource(c.Addr()+"/"+ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	gotLock, gotDef, err := rs.ReadLock(ctx)
	if err != nil || !bytes.Equal(gotLock, lock) || !bytes.Equal(gotDef, definition) {
		t.Errorf("ReadLock: %q %q %v", gotLock, gotDef, err)
	}
	r, err := rs.Open(ctx, ident.Sum(deb))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, deb) {
		t.Errorf("Open: %d bytes, %v", len(got), err)
	}
	if err := c.PushArtifact(ctx, "runtimes/r/sources:def", manifest, blobs{}); err != nil {
		t.Errorf("a second tag needs no blob again: %v", err)
	}
	if err := c.PushArtifact(ctx, "runtimes/other/sources:def", manifest, blobs{}); err == nil || problem.KindOf(err) != problem.NotFound {
		t.Errorf("missing blob: %v, want not found", err)
	}
	if _, err := c.PullImage(ctx, "runtimes/nothing:latest"); err == nil || problem.KindOf(err) != problem.NotFound {
		t.Errorf("missing image: %v, want not found", err)
	}
}

func TestRegistryDown(t *testing.T) {
	c, stop := serve(t, t.TempDir())
	stop()
	err := c.Push(t.Context(), wire.Snapshot{Generation: 1}, 1, opener([]byte("x")))
	p := problem.From(err)
	if p.Kind != problem.Unavailable || p.Rule != "registry_unreachable" || !strings.Contains(p.Error(), c.Addr()) || p.Mend == "" {
		t.Errorf("error %v: want registry_unreachable with the address and a mend", err)
	}
	t.Log(p)
}

func TestRegistryFailing(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "secret detail", http.StatusNotImplemented)
	}))
	defer srv.Close()
	_, err := NewClient(srv.Listener.Addr().String()).PullImage(t.Context(), "runtimes/r:latest")
	if p := problem.From(err); p.Rule != "registry_failed" {
		t.Errorf("error %v: want registry_failed", err)
	}
}

func TestOnlyThisMachineWrites(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.gate.uid = func(net.Addr, net.Addr) (uint32, bool) { return 0, true }
	for _, c := range []struct {
		method, from string
		want         int
	}{
		{http.MethodGet, "10.1.2.3:4000", http.StatusOK},
		{http.MethodPost, "10.1.2.3:4000", http.StatusForbidden},
		{http.MethodDelete, "[2001:db8::1]:4000", http.StatusForbidden},
		{http.MethodPost, "[::ffff:127.0.0.1]:4000", http.StatusAccepted},
	} {
		path := "/v2/"
		if c.method != http.MethodGet {
			path = "/v2/runtimes/r/blobs/uploads/"
		}
		req := httptest.NewRequest(c.method, path, nil)
		req.RemoteAddr = c.from
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		if w.Code != c.want {
			t.Errorf("%s from %s: %d, want %d", c.method, c.from, w.Code, c.want)
		}
	}
}

func TestUnusableFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), filepath.Join(file, "registry"), slog.New(slog.DiscardHandler)); err == nil || problem.KindOf(err) != problem.Invalid {
		t.Errorf("error %v: want invalid", err)
	}
}

// TestFullRegistry: whoever pushes to a registry without room is told that, and not that
// it fails for some reason.
func TestFullRegistry(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("cupel-registry-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		need.Missing(t, "root: "+err.Error())
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	c, _ := serve(t, dir)
	big := noise(1, 4<<20)
	err := c.Push(t.Context(), wire.Snapshot{Generation: 1}, int64(len(big)), opener(big))
	if p := problem.From(err); err == nil || p.Rule != "disk_full" || !strings.Contains(p.Error(), c.Addr()) || p.Mend == "" {
		t.Errorf("%v: want disk_full with the address and a mend", err)
	}
	t.Log(err)
}
