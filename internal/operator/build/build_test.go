package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/debtest"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
)

const tinyDefinition = `
version: 1
name: tiny
suite: bookworm
architecture: amd64
packages: [app]
user: app
cwd: /
cmd: [/bin/app]
`

func tiny(content string) *debtest.Debian {
	d := debtest.New()
	d.Add(debtest.Package{Name: "app", Version: "1", Fields: "Depends: lib\n", Deb: debtest.Deb("gz", debtest.File("./bin/app", 0o755, content))})
	d.Add(debtest.Package{Name: "lib", Version: "1", Deb: debtest.Deb("gz", debtest.File("./lib/lib.so", 0o644, content), tar.Header{Name: "./lib/x/", Typeflag: tar.TypeDir, Mode: 0o755})})
	d.Publish()
	return d
}

// memory is a Registry in memory.
type memory struct {
	mu     sync.Mutex
	images map[rebuild.Ref]ident.Digest
	blobs  map[ident.Digest][]byte
	refs   map[rebuild.Ref][]byte
	down   bool
}

func newMemory() *memory {
	return &memory{images: map[rebuild.Ref]ident.Digest{}, blobs: map[ident.Digest][]byte{}, refs: map[rebuild.Ref][]byte{}}
}

var errDown = problem.New(problem.Unavailable, "registry_unreachable", "down")

func (m *memory) PushImage(_ context.Context, ref rebuild.Ref, img *rebuild.Image) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return errDown
	}
	m.images[ref] = img.ManifestDigest()
	return nil
}

func (m *memory) PushArtifact(ctx context.Context, ref rebuild.Ref, manifest []byte, src rebuild.Source) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return errDown
	}
	s, err := rebuild.ParseSources(manifest)
	if err != nil {
		return err
	}
	for d := range s.Blobs {
		r, err := src.Open(ctx, d)
		if err != nil {
			return err
		}
		if m.blobs[d], err = io.ReadAll(r); err != nil {
			return err
		}
		_ = r.Close()
	}
	m.refs[ref] = manifest
	return nil
}

func (m *memory) Whole(_ context.Context, ref rebuild.Ref) (ident.Digest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d, ok := m.images[ref]; ok {
		return d, nil
	}
	if manifest, ok := m.refs[ref]; ok {
		return ident.Sum(manifest), nil
	}
	return ident.Digest{}, problem.New(problem.NotFound, "registry_missing", "no %s", ref)
}

func (m *memory) Source(rebuild.Ref) (rebuild.Source, error) { return m, nil }

func (m *memory) Open(_ context.Context, d ident.Digest) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.blobs[d]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return nil, problem.New(problem.NotFound, "source_missing", "no %s", d)
}

type bench struct {
	dir   string
	reg   *memory
	steps []string
	mu    sync.Mutex
}

func newBench(t *testing.T) *bench { return &bench{dir: t.TempDir(), reg: newMemory()} }

func (b *bench) options(t *testing.T, d *debtest.Debian, mirror string) Options {
	t.Helper()
	def, err := rebuild.ParseDefinition([]byte(tinyDefinition))
	if err != nil {
		t.Fatal(err)
	}
	return Options{Definition: def, Text: []byte(tinyDefinition), LockFile: filepath.Join(b.dir, "tiny.lock"),
		Cache: filepath.Join(b.dir, "cache"), Mirrors: MirrorsBelow(mirror, def), Client: rebuild.DefaultClient(), Registry: b.reg,
		Rebuild: rebuild.Builder{Keyring: d.Keyring(), TempDir: b.dir},
		Step: func(s string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.steps = append(b.steps, s)
		}}
}

func rule(err error) string {
	if err == nil {
		return ""
	}
	return string(problem.From(err).Rule)
}

func TestBuildWritesAndHonoursTheLock(t *testing.T) {
	d, b := tiny("one"), newBench(t)
	srv := httptest.NewServer(d)
	defer srv.Close()
	o := b.options(t, d, srv.URL)
	first, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !first.NewLock || first.Packages != 2 || first.Measurement.IsZero() || b.reg.images["runtimes/tiny:latest"] != first.Manifest ||
		b.reg.refs[first.Artifact] == nil || b.reg.refs["runtimes/tiny/sources:latest"] == nil {
		t.Errorf("first build: %+v", first)
	}
	lock, err := os.ReadFile(o.LockFile)
	if err != nil {
		t.Fatal(err)
	}

	// Debian moves on: the lock, by cache or by artifact, keeps the image.
	d.Add(debtest.Package{Name: "app", Suite: "bookworm-security", Version: "2", Deb: debtest.Deb("gz", debtest.File("./bin/app", 0o755, "two"))})
	d.Remove("debian/pool/main/a/app/app_1_amd64.deb")
	d.Publish()
	for _, name := range []string{"remembered", "cache", "artifact"} {
		if name != "remembered" {
			b.reg.images = map[rebuild.Ref]ident.Digest{}
		}
		if name == "artifact" {
			if err := os.RemoveAll(o.Cache); err != nil {
				t.Fatal(err)
			}
		}
		again, err := Build(t.Context(), o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if again.NewLock || again.Config != first.Config || again.Measurement != first.Measurement {
			t.Errorf("%s: %+v, want what the lock says", name, again)
		}
	}
	if now, err := os.ReadFile(o.LockFile); err != nil || !bytes.Equal(now, lock) {
		t.Errorf("the lock changed: %v", err)
	}

	// Without the artifact the old bytes are gone, and that is said.
	if err := os.RemoveAll(o.Cache); err != nil {
		t.Fatal(err)
	}
	b.reg.images, b.reg.blobs = map[rebuild.Ref]ident.Digest{}, map[ident.Digest][]byte{}
	_, err = Build(t.Context(), o)
	if r := rule(err); r != "source_missing" && r != "source_bytes" {
		t.Errorf("lock without its bytes: %v", err)
	}
	t.Log(err)

	o.Update = true
	updated, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !updated.NewLock || updated.Config == first.Config {
		t.Errorf("update: %+v", updated)
	}
}

// TestExpiredIndex: who fetches takes no index that isn't valid any more. Who has
// a lock of it builds from it as before.
func TestExpiredIndex(t *testing.T) {
	d, b := tiny("one"), newBench(t)
	d.Until["bookworm-security"] = debtest.Date.AddDate(0, 0, 7)
	d.Publish()
	srv := httptest.NewServer(d)
	defer srv.Close()
	o := b.options(t, d, srv.URL)
	o.Now = func() time.Time { return debtest.Date.AddDate(0, 0, 6) }
	first, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}

	o.Now = func() time.Time { return debtest.Date.AddDate(0, 0, 8) }
	b.reg.images = map[rebuild.Ref]ident.Digest{} // so that it is built, not remembered
	again, err := Build(t.Context(), o)
	if err != nil || again.Measurement != first.Measurement {
		t.Errorf("the lock of an expired index: %v, %v", again, err)
	}

	o.Update = true
	_, err = Build(t.Context(), o)
	if rule(err) != "index_expired" || !strings.Contains(err.Error(), "bookworm-security") || !strings.Contains(err.Error(), "2026-11-27T02:11:10Z") {
		t.Errorf("a new lock of an expired index: %v", err)
	}
}

func TestTwoBuildsAtOnce(t *testing.T) {
	d, b := tiny("one"), newBench(t)
	var requests atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".deb") {
			requests.Add(1)
			time.Sleep(150 * time.Millisecond)
		}
		d.ServeHTTP(w, r)
	}))
	defer srv.Close()
	o := b.options(t, d, srv.URL)
	var wg sync.WaitGroup
	results := make([]*Result, 3)
	for i := range results {
		wg.Go(func() {
			var err error
			if results[i], err = Build(t.Context(), o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if results[0].Config != results[1].Config || results[1].Config != results[2].Config || requests.Load() != 2 {
		t.Errorf("results %+v %+v %+v after %d downloads, want one image and 2", results[0], results[1], results[2], requests.Load())
	}
	if !strings.Contains(strings.Join(b.steps, "\n"), "waiting for another build") {
		t.Errorf("nobody was told to wait: %q", b.steps)
	}
	ctx, cancel := context.WithCancel(t.Context())
	unlock, err := cache{o.Cache}.lock(t.Context(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := Build(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while waiting: %v", err)
	}
}

func TestMirrorFaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		rule  problem.Rule
		serve func(d *debtest.Debian) http.Handler
	}{
		{"failing", "mirror_unreachable", func(*debtest.Debian) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) })
		}},
		{"another key", "index_signature", func(*debtest.Debian) http.Handler { return tiny("one") }},
		{"suites mixed up", "index_identity", func(d *debtest.Debian) http.Handler {
			d.Set("debian/dists/bookworm-updates/InRelease", d.Files()["debian/dists/bookworm/InRelease"])
			return d
		}},
		{"other list of packages", "source_bytes", func(d *debtest.Debian) http.Handler {
			for name := range d.Files() {
				if strings.Contains(name, "Packages.xz") || strings.Contains(name, "by-hash") {
					d.Set(name, []byte("nonsense"))
				}
			}
			return d
		}},
		{"other package", "source_bytes", func(d *debtest.Debian) http.Handler {
			d.Set("debian/pool/main/a/app/app_1_amd64.deb", debtest.Deb("gz"))
			return d
		}},
		{"missing package", "source_missing", func(d *debtest.Debian) http.Handler {
			d.Remove("debian/pool/main/a/app/app_1_amd64.deb")
			return d
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, b := tiny("one"), newBench(t)
			srv := httptest.NewServer(c.serve(d))
			defer srv.Close()
			o := b.options(t, d, srv.URL)
			_, err := Build(t.Context(), o)
			if rule(err) != string(c.rule) {
				t.Errorf("error %v, want %s", err, c.rule)
			}
			t.Log(err)
			if _, err := os.Stat(o.LockFile); err == nil || len(b.reg.images) != 0 || len(b.reg.refs) != 0 {
				t.Error("a failed build left a lock or an image")
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		d, b := tiny("one"), newBench(t)
		_, err := Build(t.Context(), b.options(t, d, "http://127.0.0.1:1"))
		if p := problem.From(err); p.Rule != "mirror_unreachable" || p.Kind != problem.Unavailable || !strings.Contains(p.Mend, "--mirror") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("registry down", func(t *testing.T) {
		t.Parallel()
		d, b := tiny("one"), newBench(t)
		b.reg.down = true
		srv := httptest.NewServer(d)
		defer srv.Close()
		o := b.options(t, d, srv.URL)
		if _, err := Build(t.Context(), o); rule(err) != "registry_unreachable" {
			t.Errorf("error %v", err)
		}
		if _, err := os.Stat(o.LockFile); err == nil {
			t.Error("a failed build left a lock")
		}
	})
}

// TestBrokenDownload cuts every first answer in half: the rest is asked for and
// nothing is fetched twice.
func TestBrokenDownload(t *testing.T) {
	d, b := tiny(strings.Repeat("incompressible? ", 4000)), newBench(t)
	var ranges atomic.Int64
	var mu sync.Mutex
	cut := map[string]bool{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		first := strings.HasSuffix(r.URL.Path, ".deb") && !cut[r.URL.Path]
		cut[r.URL.Path] = true
		mu.Unlock()
		if r.Header.Get("Range") != "" {
			ranges.Add(1)
		}
		if first {
			all := d.Files()[strings.TrimPrefix(r.URL.Path, "/")]
			w.Header().Set("Content-Length", fmt.Sprint(len(all)))
			_, _ = w.Write(all[:len(all)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		d.ServeHTTP(w, r)
	}))
	defer srv.Close()
	if _, err := Build(t.Context(), b.options(t, d, srv.URL)); err != nil {
		t.Fatal(err)
	}
	if ranges.Load() != 2 {
		t.Errorf("%d range requests, want one for each package", ranges.Load())
	}
}

func TestBadHalfIsDiscarded(t *testing.T) {
	d, b := tiny("one"), newBench(t)
	srv := httptest.NewServer(d)
	defer srv.Close()
	o := b.options(t, d, srv.URL)
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		t.Fatal(err)
	}
	deb := d.Files()["debian/pool/main/a/app/app_1_amd64.deb"]
	sum := ident.Sum(deb).String()
	for name, content := range map[string][]byte{
		sum + ".partial": bytes.Repeat([]byte("x"), 50),
		ident.Sum(d.Files()["debian/pool/main/l/lib/lib_1_amd64.deb"]).String(): []byte("rotten"),
	} {
		if err := os.WriteFile(filepath.Join(o.Cache, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(o.Cache, sum)); err != nil || !bytes.Equal(got, deb) {
		t.Errorf("the cache has %d bytes, %v", len(got), err)
	}
}

func TestFullDisk(t *testing.T) {
	need.Root(t)
	d, b := tiny(strings.Repeat("x", 3<<20)), newBench(t)
	srv := httptest.NewServer(d)
	defer srv.Close()
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	for name, change := range map[string]func(*Options){
		"while unpacking": func(o *Options) { o.Rebuild.TempDir = small },
		"lock file":       func(o *Options) { fill(t, small); o.LockFile = filepath.Join(small, "tiny.lock") },
		"cache":           func(o *Options) { fill(t, small); o.Cache = small },
	} {
		o := b.options(t, d, srv.URL)
		o.LockFile = filepath.Join(t.TempDir(), "tiny.lock")
		change(&o)
		_, err := Build(t.Context(), o)
		if rule(err) != "disk_full" {
			t.Errorf("%s: error %v, want disk_full", name, err)
		}
		t.Logf("%s: %v", name, err)
		left, _ := filepath.Glob(filepath.Join(small, "cupel-*"))
		partial, _ := filepath.Glob(filepath.Join(small, "*.partial"))
		if len(left)+len(partial) != 0 {
			t.Errorf("%s: left %v %v", name, left, partial)
		}
		_ = os.Remove(filepath.Join(small, "fill"))
	}
}

func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
}

func TestBadLockFile(t *testing.T) {
	d, b := tiny("one"), newBench(t)
	o := b.options(t, d, "http://127.0.0.1:1")
	if err := os.WriteFile(o.LockFile, []byte("version: 9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), o); rule(err) != "runtime_lock" {
		t.Errorf("error %v", err)
	}
}

func TestBrokenReader(t *testing.T) {
	c := cache{t.TempDir()}
	b := rebuild.Blob{SHA256: ident.Sum([]byte("hello")), Size: 5}
	if _, err := c.finish(b, iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("hello"))), 0); err == nil {
		t.Fatal("a broken reader was no error")
	}
	if ok, err := c.finish(b, strings.NewReader("ello"), 1); !ok || err != nil || !c.has(b) {
		t.Errorf("going on after it broke: %v, %v", ok, err)
	}
}
