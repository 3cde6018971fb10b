package registry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/filelock"
	"cupel.dev/cupel/internal/trusted/wire"
)

// serving is a registry in a folder, whose clock shows now, and its server. Both end with
// the test.
func serving(t *testing.T, dir string, now *time.Time) (*Server, *httptest.Server) {
	t.Helper()
	s, err := Open(t.Context(), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.gate.now = func() time.Time { return *now }
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	return s, server
}

// TestCollectsWhileItRuns: what nothing refers to goes while the registry serves, and
// never what a push has brought so far.
func TestCollectsWhileItRuns(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	now := time.Now()
	s, server := serving(t, dir, &now)
	c := NewClient(server.Listener.Addr().String())
	at := func(g uint64) wire.Snapshot {
		return wire.Snapshot{Volume: ident.Sum([]byte("data")), Generation: g, Tag: ident.Digest{byte(g)}}
	}
	push := func(g uint64) {
		t.Helper()
		b := noise(g, 1<<20)
		if err := c.Push(ctx, at(g), int64(len(b)), opener(b)); err != nil {
			t.Fatalf("push %d: %v", g, err)
		}
	}
	collect := func() int64 {
		t.Helper()
		if _, err := s.collectQuiet(ctx); err != nil {
			t.Fatal(err)
		}
		return size(t, dir) >> 20
	}

	for g := uint64(1); g <= 5; g++ {
		push(g)
	}
	if left := collect(); left != 2 {
		t.Errorf("%d MB are left of five snapshots, want the last two", left)
	}

	// A blob that came, and whose manifest didn't yet: it stays, also over the
	// garbage of others, until its push is given up.
	blob := noise(99, 3<<20)
	upload(t, server.URL, blob)
	push(6)
	if left := collect(); left != 6 {
		t.Errorf("%d MB are left while a push is under way, want all 6", left)
	}
	now = now.Add(2 * pushQuiet)
	if left := collect(); left != 2 {
		t.Errorf("%d MB are left after a push was given up, want the last two snapshots", left)
	}

	if err := c.DropAll(ctx, at(1).Volume); err != nil {
		t.Fatal(err)
	}
	if left := collect(); left != 0 {
		t.Errorf("%d MB are left of a volume that was removed", left)
	}
	push(7) // all goes on
}

// upload stores a blob that no manifest names.
func upload(t *testing.T, base string, blob []byte) {
	t.Helper()
	send := func(method, to string, body io.Reader) (location string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, to, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %s", method, to, resp.Status)
		}
		at, err := resp.Location()
		if err != nil {
			return ""
		}
		return at.String()
	}
	begun, err := url.Parse(send(http.MethodPost, base+"/v2/volumes/other/blobs/uploads/", nil))
	if err != nil {
		t.Fatal(err)
	}
	q := begun.Query()
	q.Set("digest", "sha256:"+ident.Sum(blob).String())
	begun.RawQuery = q.Encode()
	send(http.MethodPut, begun.String(), opened(blob))
}

func opened(b []byte) io.Reader {
	r, _ := opener(b)() // never fails
	return r
}

// TestImagesStayAWhile: a deployment may be about to bring what a tag has just left.
func TestImagesStayAWhile(t *testing.T) {
	now := time.Now()
	g := newGate(http.NotFoundHandler(), t.TempDir(), slog.New(slog.DiscardHandler))
	g.now = func() time.Time { return now }
	for _, step := range []struct {
		repository string
		quiet      bool
		later      time.Duration
	}{
		{"volumes/a", true, 0},
		{"runtimes/python", false, imageQuiet / 2},
		{"volumes/a", false, imageQuiet / 2},
		{"volumes/b", true, 0},
	} {
		g.note(step.repository, true)
		if got := g.quiet(); got != step.quiet {
			t.Errorf("after a push to %s quiet is %t", step.repository, got)
		}
		now = now.Add(step.later)
	}
}

// TestStrangersStopNoCollection: whoever may push nothing is about to push nothing,
// whatever it asks for.
func TestStrangersStopNoCollection(t *testing.T) {
	now := time.Now()
	g := newGate(http.NotFoundHandler(), t.TempDir(), slog.New(slog.DiscardHandler))
	g.now = func() time.Time { return now }
	g.uid = func(_, remote net.Addr) (uint32, bool) { // root has port 1
		if remote.(*net.TCPAddr).Port == 1 {
			return uint32(os.Geteuid()), true
		}
		return 65534, true
	}
	head := func(from, repository string) {
		r := httptest.NewRequest(http.MethodHead, "/v2/"+repository+"/blobs/sha256:00", nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		if g.ServeHTTP(w, r); w.Code != http.StatusNotFound {
			t.Errorf("%s from %s: %d; all may read", repository, from, w.Code)
		}
	}

	for _, stranger := range []string{"203.0.113.9:1", "127.0.0.1:4000"} {
		head(stranger, "runtimes/x/sources")
		head(stranger, "volumes/"+stranger)
		if len(g.pushes) != 0 || !g.quiet() {
			t.Errorf("garbage stays for %s, who may push nothing; pushes %v", stranger, g.pushes)
		}
	}
	head("127.0.0.1:1", "volumes/a")
	if g.quiet() {
		t.Error("garbage is collected while root pushes")
	}

	// What was given up is forgotten, also while others push.
	now = now.Add(pushQuiet)
	head("127.0.0.1:1", "volumes/b")
	if g.quiet() || len(g.pushes) != 1 {
		t.Errorf("pushes %v, want that to volumes/b alone", g.pushes)
	}
}

// TestCollectsAgain: a collection that failed, or that another process was in the way
// of, is made up for, though nobody writes meanwhile.
func TestCollectsAgain(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	now := time.Now()
	s, server := serving(t, dir, &now)
	upload(t, server.URL, noise(1, 2<<20))
	now = now.Add(2 * pushQuiet)
	left := func() int64 { return size(t, dir) >> 20 }

	other, err := Open(ctx, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.collectQuiet(ctx); err != nil || left() != 2 {
		t.Errorf("collected while another process has the folder: %d MB are left, %v", left(), err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}

	damaged := filepath.Join(dir, "docker/registry/v2/repositories/volumes/other/_manifests/revisions/sha256", ident.Digest{1}.String(), "link")
	if err := os.MkdirAll(filepath.Dir(damaged), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.collectQuiet(ctx); err == nil {
		t.Error("collected though a manifest can't be read")
	}
	if err := os.RemoveAll(filepath.Dir(damaged)); err != nil {
		t.Fatal(err)
	}

	if _, err := s.collectQuiet(ctx); err != nil || left() != 0 {
		t.Errorf("%d MB are left, %v", left(), err)
	}
}

// TestOnlyRootWrites: another user of the machine may read, and neither store nor
// remove anything.
func TestOnlyRootWrites(t *testing.T) {
	need.Root(t)
	need.Programs(t, "curl")
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", ":0"} {
		t.Run(listen, func(t *testing.T) {
			s, err := Open(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			ln, err := net.Listen("tcp", listen)
			if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
				t.Skip("this machine has no such address:", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: time.Minute}
			defer server.Close()
			go func() { _ = server.Serve(ln) }()
			host := "127.0.0.1"
			if listen == "[::1]:0" {
				host = "[::1]"
			}
			_, port, _ := net.SplitHostPort(ln.Addr().String())

			for _, c := range []struct {
				method, path, user, want string
			}{
				{"GET", "/v2/", "nobody", "200"},
				{"POST", "/v2/volumes/a/blobs/uploads/", "nobody", "403"},
				{"DELETE", "/v2/volumes/a/manifests/g1", "nobody", "403"},
				{"POST", "/v2/volumes/a/blobs/uploads/", "root", "202"},
			} {
				cmd := exec.Command("curl", "-s", "-o", os.DevNull, "-w", "%{http_code}", "-X", c.method, "http://"+host+":"+port+c.path)
				if c.user == "nobody" {
					cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
				}
				if got, err := cmd.Output(); err != nil || string(got) != c.want {
					t.Errorf("%s %s by %s: %s, %v; want %s", c.method, c.path, c.user, got, err, c.want)
				}
			}
		})
	}
}

// TestFolderStaysOurs: a collection that another process keeps out gives the folder back
// to this one, also when the collection is told to end meanwhile.
func TestFolderStaysOurs(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	other, err := os.Open(filepath.Join(dir, ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := errors.Join(syscall.Flock(int(s.lock.Fd()), syscall.LOCK_UN), filelock.Try(other)); err != nil {
		t.Fatal(err)
	}

	ended, end := context.WithCancel(t.Context())
	end()
	got := make(chan error, 1)
	go func() {
		_, err := s.collect(ended)
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("the folder was given up: %v", err)
	case <-time.After(50 * time.Millisecond):
	}

	if err := syscall.Flock(int(other.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	if err := filelock.Try(other); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("the folder is another's: %v", err)
	}
}
