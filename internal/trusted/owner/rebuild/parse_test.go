package rebuild_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/debtest"
	"cupel.dev/cupel/internal/trusted/minrate"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/runtimes"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestOtherFiles: a file that is no definition or lock is called so, in words, and nothing
// of what it holds is shown.
func TestOtherFiles(t *testing.T) {
	for text, want := range map[string]string{
		"hunter2\n":                        "line 1: a value of another kind than belongs there",
		"version: 1\nname: [hunter2\n":     "no YAML that can be read",
		"a: *hunter2\n":                    "line 1: no YAML that can be read",
		"version: hunter2\n":               "line 1: a value of another kind than belongs there",
		"version: 1\nHunter2-hunter2: x\n": "line 2: a key that is not known",
		"version: 1\nfoo: hunter2\n":       "line 2: the key foo is not known",
		"version: 1\nversion: 1\n":         "line 2: a key that is there already",
	} {
		_, definition := rebuild.ParseDefinition([]byte(text))
		_, lock := rebuild.ParseLock([]byte(text))
		for _, err := range []error{definition, lock} {
			p := problem.From(err)
			if p == nil || !strings.Contains(p.Actual, want) || p.Mend == "" {
				t.Errorf("%q: %v; want %q and a mend", text, err, want)
				continue
			}
			for _, foreign := range []string{"unter2", "yaml", "construct", "rebuild.", "!!"} {
				if strings.Contains(p.Error(), foreign) {
					t.Errorf("%q: %q in %v", text, foreign, err)
				}
			}
		}
	}
}

func TestRefusedDefinitions(t *testing.T) {
	for name, change := range map[string][2]string{
		"empty":             {definition, ""},
		"second document":   {"cwd: /data", "cwd: /data\n---\nversion: 1"},
		"unknown key":       {"cwd: /data", "cwd: /data\ncapabilities: [all]"},
		"duplicate key":     {"cwd: /data", "cwd: /data\ncwd: /"},
		"version":           {"version: 1", "version: 2"},
		"name":              {"name: tiny", "name: ../tiny"},
		"suite":             {"suite: bookworm", "suite: sid"},
		"architecture":      {"amd64", "riscv64"},
		"no packages":       {"[app, ca-certificates]", "[]"},
		"package":           {"[app, ca-certificates]", "[app/x]"},
		"user":              {"user: app", "user: daemon"},
		"cwd":               {"cwd: /data", "cwd: data"},
		"env":               {`B: "2"`, `"B=C": "2"`},
		"drop":              {"[/usr/share/doc]", "[/usr/../etc]"},
		"setuid":            {"mode: 0755", "mode: 04755"},
		"setgid directory":  {"mode: 0750", "mode: 02750"},
		"mode in decimal":   {"mode: 0755", "mode: 0x1ed"},
		"file without mode": {"mode: 0755, ", ""},
		"file outside":      {"path: /usr/bin/hello", "path: /usr/../../x"},
		"root":              {"path: /usr/bin/hello", "path: /"},
		"link with content": {"link: /usr/bin/hello", "link: /usr/bin/hello, content: x"},
		"owner":             {"owner: app", "owner: daemon"},
		"not UTF-8":         {"/bin/sh", "/bin/\xff"},
	} {
		text := strings.Replace(definition, change[0], change[1], 1)
		if text == definition {
			t.Errorf("%s: the test changes nothing", name)
		}
		_, err := rebuild.ParseDefinition([]byte(text))
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		t.Logf("%s: %v", name, err)
		if p := problem.From(err); p.Kind != problem.Invalid || p.Rule != "runtime_definition" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func lockText(t testing.TB) []byte {
	t.Helper()
	d := ident.Sum([]byte("x"))
	blob := func(p string) rebuild.Blob { return rebuild.Blob{Path: p, SHA256: d, Size: 7} }
	l := &rebuild.Lock{Version: 1, Runtime: "tiny", Definition: d, Suite: "bookworm", Architecture: "amd64", Artifact: "runtimes/tiny/sources:0123",
		Indices:  []rebuild.Index{{Archive: "debian", Suite: "bookworm", Date: debtest.Date, InRelease: blob("dists/bookworm/InRelease"), Packages: blob("dists/x/Packages.xz")}},
		Packages: []rebuild.Package{{Name: "app", Version: "1:2-3~x", Architecture: "all", Index: "bookworm", Blob: blob("pool/a/app_1.deb")}}}
	b, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLockRoundTrip(t *testing.T) {
	text := lockText(t)
	golden(t, "tiny.lock", text)
	l, err := rebuild.ParseLock(text)
	if err != nil {
		t.Fatal(err)
	}
	again, err := l.Encode()
	if err != nil || !bytes.Equal(again, text) {
		t.Errorf("re-encoded differently: %v\n%s", err, cmp.Diff(string(text), string(again)))
	}
}

func TestRefusedLocks(t *testing.T) {
	text := string(lockText(t))
	for name, change := range map[string][2]string{
		"version":       {"version: 1\n", "version: 2\n"},
		"unknown key":   {"suite: bookworm\n", "suite: bookworm\ntrusted: yes\n"},
		"duplicate key": {"suite: bookworm\n", "suite: bookworm\nsuite: bookworm\n"},
		"short hash":    {"sha256: 2d", "sha256: "},
		"zero size":     {"size: 7", "size: 0"},
		"negative size": {"size: 7", "size: -1"},
		"path upwards":  {"pool/a/", "pool/../../"},
		"absolute path": {"pool/a/", "/pool/a/"},
		"path of a URL": {"pool/a/app_1.deb", "pool/a?b"},
		"artifact":      {"runtimes/tiny/sources:0123", "http://evil/x"},
		"runtime":       {"runtime: tiny", "runtime: ../tiny"},
		"package twice": {"packages:\n  - name", "packages:\n  - {name: app, version: '1', architecture: all, index: x, path: p, sha256: 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881, size: 1}\n  - name"},
		"date":          {"2026-11-20T02:11:10Z", "yesterday"},
	} {
		changed := strings.Replace(text, change[0], change[1], 1)
		if changed == text {
			t.Errorf("%s: the test changes nothing", name)
		}
		if _, err := rebuild.ParseLock([]byte(changed)); err == nil || problem.From(err).Rule != "runtime_lock" {
			t.Errorf("%s: error %v, want runtime_lock", name, err)
		}
	}
}

func manifest(t testing.TB) []byte {
	t.Helper()
	text := lockText(t)
	l, err := rebuild.ParseLock(text)
	if err != nil {
		t.Fatal(err)
	}
	m, err := rebuild.SourcesManifest(l, text, []byte(definition))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSources(t *testing.T) {
	m := manifest(t)
	s, err := rebuild.ParseSources(m)
	if err != nil {
		t.Fatal(err)
	}
	if s.Lock != ident.Sum(lockText(t)) || s.Definition != ident.Sum([]byte(definition)) || len(s.Blobs) != 3 {
		t.Errorf("sources %+v", s)
	}
	for name, change := range map[string][2]string{
		"type":       {rebuild.ArtifactType, "application/x"},
		"media type": {`"mediaType":"application/vnd.oci.image.manifest.v1+json"`, `"mediaType":"application/vnd.oci.image.index.v1+json"`},
		"version":    {`"schemaVersion":2`, `"schemaVersion":1`},
		"no lock":    {rebuild.MediaTypeLock, "application/x"},
		"two locks":  {rebuild.MediaTypeDefinition, rebuild.MediaTypeLock},
		"digest":     {`"sha256:2d`, `"md5:2d`},
		"size":       {`"size":7`, `"size":-7`},
		"cut":        {"}]}", ""},
		"longer":     {"}]}", "}]}{}"},
	} {
		changed := strings.Replace(string(m), change[0], change[1], 1)
		if changed == string(m) {
			t.Errorf("%s: the test changes nothing", name)
		}
		if _, err := rebuild.ParseSources([]byte(changed)); err == nil || problem.From(err).Rule != "runtime_artifact" {
			t.Errorf("%s: error %v, want runtime_artifact", name, err)
		}
	}
}

func TestDirSource(t *testing.T) {
	d, def := tiny(), parse(t, definition)
	l := resolve(t, d, def)
	mirror, flat := t.TempDir(), t.TempDir()
	for name, b := range d.Files() {
		for _, file := range []string{filepath.Join(mirror, name), filepath.Join(flat, ident.Sum(b).String())} {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, dir := range []string{mirror, flat} {
		img, err := rebuild.Builder{Keyring: d.Keyring()}.Build(t.Context(), def, l, rebuild.NewDirSource(dir, l))
		if err != nil {
			t.Fatal(err)
		}
		_ = img.Close()
	}
	if _, err := rebuild.NewDirSource(filepath.Join(mirror, "none"), l).Open(t.Context(), ident.Sum(nil)); err == nil || problem.From(err).Kind != problem.NotFound {
		t.Errorf("no such folder: %v", err)
	}
}

func TestMirrorSource(t *testing.T) {
	d, def := tiny(), parse(t, definition)
	l := resolve(t, d, def)
	srv := httptest.NewServer(d)
	defer srv.Close()
	src := rebuild.NewMirrorSource(srv.URL, l, srv.Client())
	img, err := rebuild.Builder{Keyring: d.Keyring()}.Build(t.Context(), def, l, src)
	if err != nil {
		t.Fatal(err)
	}
	_ = img.Close()
	d.Set("debian/dists/bookworm/InRelease", d.Sign("newer"))
	_, err = rebuild.Builder{Keyring: d.Keyring()}.Build(t.Context(), def, l, src)
	if err == nil || problem.From(err).Rule != "source_bytes" {
		t.Errorf("a mirror that moved on: %v", err)
	}
	srv.Close()
	if _, err = src.Open(t.Context(), l.Packages[0].SHA256); err == nil || problem.From(err).Rule != "source_unreachable" {
		t.Errorf("a mirror that is down: %v", err)
	}
}

// TestBrokenSource: a server whose answer breaks off, or comes a byte now and then for
// ever, is a source that can't be had.
func TestBrokenSource(t *testing.T) {
	l := resolve(t, tiny(), parse(t, definition))
	for name, c := range map[string]struct {
		goOn func(r *http.Request) bool
		says string
	}{
		"breaks off": {func(*http.Request) bool { return false }, "unexpected EOF"},
		"trickles": {func(r *http.Request) bool {
			select {
			case <-r.Context().Done():
			case <-time.After(10 * time.Millisecond):
			}
			return r.Context().Err() == nil
		}, "and not the rest in time"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			for {
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
				if !c.goOn(r) {
					return
				}
			}
		}))
		client := rebuild.DefaultClient()
		client.Transport.(*minrate.Transport).Wait = 300 * time.Millisecond
		r, err := rebuild.NewMirrorSource(srv.URL, l, client).Open(t.Context(), l.Packages[0].SHA256)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			_ = r.Close()
		}
		p := problem.From(err)
		if err == nil || p.Rule != "source_unreachable" || !strings.Contains(p.Actual, c.says) || p.Mend == "" || name == "trickles" && !strings.Contains(p.Expected, "128 KiB") {
			t.Errorf("a server that %s: %v", name, err)
		}
		srv.Close()
	}
}

func TestRegistrySource(t *testing.T) {
	text := lockText(t)
	files := map[string][]byte{
		"/v2/runtimes/tiny/sources/manifests/latest":                                       manifest(t),
		"/v2/runtimes/tiny/sources/blobs/sha256:" + ident.Sum(text).String():               text,
		"/v2/runtimes/tiny/sources/blobs/sha256:" + ident.Sum([]byte(definition)).String(): []byte(definition),
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := files[path.Clean(r.URL.Path)]
		if !ok {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		_, _ = w.Write(b)
	}))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	src, err := rebuild.ParseRegistrySource(addr+"/runtimes/tiny/sources", srv.Client())
	if err != nil {
		t.Fatal(err)
	}
	lock, def, err := src.ReadLock(t.Context())
	if err != nil || !bytes.Equal(lock, text) || string(def) != definition {
		t.Errorf("ReadLock: %v", err)
	}
	if _, err := src.Open(t.Context(), ident.Sum(nil)); err == nil || problem.From(err).Kind != problem.NotFound {
		t.Errorf("missing blob: %v", err)
	}
	for p := range files {
		if strings.HasSuffix(p, ident.Sum(text).String()) {
			files[p] = append([]byte("x"), text...)
		}
	}
	if _, _, err := src.ReadLock(t.Context()); err == nil || problem.From(err).Rule != "source_bytes" {
		t.Errorf("a registry that swaps the lock: %v", err)
	}
	for _, s := range []string{"", "addr", "addr/", "addr/UPPER", "user:pw@addr/r", "addr/r:", "addr/r@sha256:xyz", "addr/r@md5:00", "addr/../r", "a b/r", "addr/r:x/y"} {
		if _, err := rebuild.ParseRegistrySource(s, nil); err == nil && s != "addr/r:" {
			t.Errorf("reference %q accepted", s)
		}
	}
}

func FuzzDefinition(f *testing.F) {
	f.Add([]byte(definition))
	for _, name := range runtimes.Names() {
		text, _ := runtimes.Definition(name)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		def, err := rebuild.ParseDefinition(b)
		if err != nil {
			return
		}
		def.Archives()
		text, err := json.Marshal(def)
		if err != nil {
			t.Fatal(err)
		}
		var again rebuild.Definition
		if err := json.Unmarshal(text, &again); err != nil || again.Digest() != def.Digest() {
			t.Fatalf("another digest after a round trip: %v", err)
		}
	})
}

func FuzzLock(f *testing.F) {
	f.Add(lockText(f))
	f.Add([]byte("version: 1\nruntime: tiny\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := rebuild.ParseLock(b)
		if err != nil {
			return
		}
		text, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := rebuild.ParseLock(text)
		if err != nil {
			t.Fatalf("what was accepted is refused re-encoded: %v\n%s", err, text)
		}
		if d := cmp.Diff(l, again); d != "" {
			t.Fatalf("re-encoded to something else:\n%s", d)
		}
	})
}

func FuzzArtifact(f *testing.F) {
	f.Add(manifest(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := rebuild.ParseSources(b)
		if err == nil && (s.Lock.IsZero() || s.Definition.IsZero() || s.Blobs[s.Lock] > rebuild.MaxLock) {
			t.Fatalf("accepted %+v", s)
		}
	})
}
