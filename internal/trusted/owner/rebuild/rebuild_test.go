package rebuild_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/debtest"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/runtimes"
)

const definition = `
version: 1
name: tiny
suite: bookworm
architecture: amd64
packages: [app, ca-certificates]
exclude: [debconf]
drop: [/usr/share/doc]
directories: [{path: /data, mode: 0750, owner: app}]
files:
  - {path: /usr/bin/hello, mode: 0755, content: "#!/bin/sh\n"}
  - {path: /etc/alternatives/x, link: /usr/bin/hello}
user: app
env: {B: "2", A: "1"}
cwd: /data
entrypoint: [/usr/bin/hello]
`

const certificate = `-----BEGIN CERTIFICATE-----
MIIBAA==
-----END CERTIFICATE-----
`

// tiny is a Debian in which definition can be built.
func tiny() *debtest.Debian {
	d := debtest.New()
	d.Add(debtest.Package{Name: "app", Version: "1", Fields: "Depends: libc (>= 2), debconf, sh\n", Deb: debtest.Deb("xz",
		debtest.Dir("./"), debtest.Dir("./bin/"), debtest.File("./bin/app", 0o4755, "app\n"), debtest.Dir("./lib64/"),
		debtest.Link("./lib64/ld.so", "/lib/ld.so"), debtest.Dir("./usr/"), debtest.Dir("./usr/share/"), debtest.Dir("./usr/share/doc/"),
		debtest.Dir("./usr/share/doc/app/"), debtest.File("./usr/share/doc/app/copyright", 0o644, "free\n"),
		debtest.File("./usr/share/doc/app/README", 0o644, "long\n"), debtest.File("./var/log/app.log", 0o644, "noise\n"),
		debtest.File("./usr/lib/x/__pycache__/a.pyc", 0o644, "noise\n"), debtest.Hard("./usr/bin/app2", "./bin/app"))})
	d.Add(debtest.Package{Name: "libc", Version: "2", Deb: debtest.Deb("gz", debtest.Dir("./lib/"), debtest.File("./lib/libc.so", 0o644, "old\n"))})
	d.Add(debtest.Package{Name: "libc", Suite: "bookworm-security", Version: "2+deb12u1",
		Deb: debtest.Deb("gz", debtest.Dir("./lib/"), debtest.File("./lib/libc.so", 0o644, "fixed\n"))})
	d.Add(debtest.Package{Name: "dash", Version: "1", Fields: "Provides: sh\n", Deb: debtest.Deb("", debtest.Dir("./"), debtest.Link("./bin/sh", "dash"))})
	d.Add(debtest.Package{Name: "other", Version: "1", Deb: debtest.Deb("", debtest.Dir("./"))})
	d.Add(debtest.Package{Name: "ca-certificates", Version: "1", Deb: debtest.Deb("",
		debtest.File("./usr/share/ca-certificates/mozilla/b.crt", 0o644, certificate),
		debtest.File("./usr/share/ca-certificates/mozilla/a.crt", 0o644, strings.TrimSuffix(certificate, "\n")))})
	d.Publish()
	return d
}

func parse(t *testing.T, text string) *rebuild.Definition {
	t.Helper()
	def, err := rebuild.ParseDefinition([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return def
}

func resolve(t *testing.T, d *debtest.Debian, def *rebuild.Definition) *rebuild.Lock {
	t.Helper()
	b := rebuild.Builder{Keyring: d.Keyring()}
	l := &rebuild.Lock{Version: 1, Runtime: def.Name, Definition: def.Digest(), Suite: def.Suite, Architecture: def.Architecture}
	for _, a := range def.Archives() {
		x, err := b.ResolveIndex(a, def.Architecture, d.Files()[a.Folder+"/"+a.InReleasePath()], debtest.Date)
		if err != nil {
			t.Fatal(err)
		}
		l.Indices = append(l.Indices, x)
	}
	if err := b.ResolvePackages(t.Context(), def, l, d); err != nil {
		t.Fatal(err)
	}
	return l
}

func build(t *testing.T, d *debtest.Debian, def *rebuild.Definition, l *rebuild.Lock) (*rebuild.Image, error) {
	t.Helper()
	dir := t.TempDir()
	img, err := rebuild.Builder{Keyring: d.Keyring(), TempDir: dir}.Build(t.Context(), def, l, d)
	if err == nil {
		t.Cleanup(func() { _ = img.Close() })
		return img, nil
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("a failed build left %v", left)
	}
	return nil, err
}

func listing(t *testing.T, img *rebuild.Image) string {
	t.Helper()
	r, err := img.OpenLayer()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out strings.Builder
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(debtest.Date) || h.Uname != "" || h.Uid != h.Gid {
			t.Errorf("%s: %v %q %d:%d", h.Name, h.ModTime, h.Uname, h.Uid, h.Gid)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 30 {
			b = fmt.Appendf(nil, "%d bytes", len(b))
		}
		fmt.Fprintf(&out, "%c %o %d %s", h.Typeflag, h.Mode, h.Uid, h.Name)
		if h.Linkname != "" {
			fmt.Fprintf(&out, " -> %s", h.Linkname)
		}
		if len(b) > 0 {
			fmt.Fprintf(&out, " %q", b)
		}
		out.WriteByte('\n')
	}
}

func TestBuild(t *testing.T) {
	d, def := tiny(), parse(t, definition)
	l := resolve(t, d, def)
	var checks []string
	img, err := rebuild.Builder{Keyring: d.Keyring(), TempDir: t.TempDir(),
		Observe: func(c rebuild.Check) { checks = append(checks, string(c.Rule)) }}.Build(t.Context(), def, l, d)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	golden(t, "layer.txt", []byte(listing(t, img)))
	golden(t, "config.json", append(img.Config(), '\n'))
	want := []string{"index_signature", "index_hash", "index_signature", "index_hash", "index_signature", "index_hash", "packages", "package_bytes", "image"}
	if diff := cmp.Diff(want, checks); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
	cfg, err := launch.ParseImageConfig(img.Config())
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Config != img.ConfigDigest() || !slices.Equal(cfg.DiffIDs, img.DiffIDs()) || cfg.User != "1000:1000" {
		t.Errorf("launch sees %+v", cfg)
	}
	if _, err := launch.Expected(launch.Newest, cfg, ident.Sum(nil)); err != nil {
		t.Error(err)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(file, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got), -update rewrites it:\n%s", file, diff)
	}
}

func TestEqualInputEqualImage(t *testing.T) {
	def := parse(t, definition)
	d := tiny()
	l := resolve(t, d, def)
	a, err := build(t, d, def, l)
	if err != nil {
		t.Fatal(err)
	}
	commented := parse(t, "# a comment\n"+strings.ReplaceAll(definition, `{B: "2", A: "1"}`, "\n  A: '1' # one\n  B: '2'"))
	b, err := build(t, d, commented, l)
	if err != nil {
		t.Fatal(err)
	}
	if a.ManifestDigest() != b.ManifestDigest() || a.ConfigDigest() != b.ConfigDigest() {
		t.Error("two builds of the same differ")
	}
	other := parse(t, strings.Replace(definition, `#!/bin/sh\n`, `#!/bin/sh\n:\n`, 1))
	if _, err := build(t, d, other, l); problem.From(err).Rule != "lock_definition" {
		t.Errorf("a changed definition under the old lock: %v", err)
	}
	c, err := build(t, d, other, resolve(t, d, other))
	if err != nil {
		t.Fatal(err)
	}
	if c.ConfigDigest() == a.ConfigDigest() {
		t.Error("another script gives the same image")
	}
}

// endsWith is a source whose caller is interrupted once it has read a blob whole.
type endsWith struct {
	rebuild.Source
	blob   ident.Digest
	cancel func()
}

type endsReader struct {
	io.ReadCloser
	cancel func()
}

func (s endsWith) Open(ctx context.Context, digest ident.Digest) (io.ReadCloser, error) {
	r, err := s.Source.Open(ctx, digest)
	if err != nil || digest != s.blob {
		return r, err
	}
	return endsReader{r, s.cancel}, nil
}

func (r endsReader) Close() error {
	r.cancel()
	return r.ReadCloser.Close()
}

// TestInterruptedParse: an interrupt ends also the reading of a list of packages that is
// there whole: nothing of it is taken.
func TestInterruptedParse(t *testing.T) {
	d, def := tiny(), parse(t, definition)
	l := resolve(t, d, def)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last := l.Indices[len(l.Indices)-1]
	b := rebuild.Builder{Keyring: d.Keyring(), TempDir: t.TempDir(), Observe: func(c rebuild.Check) {
		if c.Rule == "index_hash" && strings.HasPrefix(c.Detail, last.Suite+":") {
			t.Errorf("after the interrupt: %s", c.Detail)
		}
	}}
	if err := b.ResolvePackages(ctx, def, l, endsWith{d, last.Packages.SHA256, cancel}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestVerifiedIndices: the memory answers for the very same index only.
func TestVerifiedIndices(t *testing.T) {
	d, def := tiny(), parse(t, definition)
	l := resolve(t, d, def)
	var checks int
	b := rebuild.Builder{Keyring: d.Keyring(), TempDir: t.TempDir(), Verified: &rebuild.Indices{}, Observe: func(rebuild.Check) { checks++ }}
	for range 2 {
		if err := b.ResolvePackages(t.Context(), def, l, d); err != nil {
			t.Fatal(err)
		}
	}
	if checks != 6 {
		t.Errorf("%d checks, want 6: each index once", checks)
	}
	for name, change := range map[string]func(x *rebuild.Index){
		"in_release": func(x *rebuild.Index) { x.InRelease.SHA256[0] ^= 1 },
		"packages":   func(x *rebuild.Index) { x.Packages.SHA256[0] ^= 1 },
		"date":       func(x *rebuild.Index) { x.Date = x.Date.Add(time.Second) },
		"suite":      func(x *rebuild.Index) { x.Suite = "bookworm-updates" },
		"path":       func(x *rebuild.Index) { x.Packages.Path = "x" },
	} {
		changed := *l
		changed.Indices = slices.Clone(l.Indices)
		change(&changed.Indices[0])
		if err := b.ResolvePackages(t.Context(), def, &changed, d); err == nil {
			t.Errorf("%s changed: accepted", name)
		}
	}
}

// TestTamperedLocks plays an operator who writes the lock: each change is
// refused under a rule of its own.
func TestTamperedLocks(t *testing.T) {
	def := parse(t, definition)
	entry := func(l *rebuild.Lock, name string) *rebuild.Package {
		i := slices.IndexFunc(l.Packages, func(p rebuild.Package) bool { return p.Name == name })
		return &l.Packages[i]
	}
	file := func(d *debtest.Debian, path string) rebuild.Blob {
		b := d.Files()["debian/"+path]
		return rebuild.Blob{Path: path, SHA256: ident.Sum(b), Size: int64(len(b))}
	}
	for _, c := range []struct {
		name   string
		rule   problem.Rule
		change func(d *debtest.Debian, l *rebuild.Lock)
	}{
		{"package that nobody signed", "package_unsigned", func(d *debtest.Debian, l *rebuild.Lock) {
			evil := debtest.Deb("", debtest.File("./bin/app", 0o755, "evil\n"))
			d.Set("debian/pool/evil.deb", evil)
			entry(l, "app").SHA256, entry(l, "app").Size = ident.Sum(evil), int64(len(evil))
		}},
		{"new package that nobody signed", "package_unsigned", func(_ *debtest.Debian, l *rebuild.Lock) {
			l.Packages = append(l.Packages, rebuild.Package{Name: "zzz", Version: "1", Blob: l.Packages[0].Blob})
		}},
		{"security fix held back", "package_outdated", func(d *debtest.Debian, l *rebuild.Lock) {
			p := entry(l, "libc")
			p.Version, p.Index, p.Blob = "2", "bookworm", file(d, "pool/main/l/libc/libc_2_amd64.deb")
		}},
		{"package left out", "package_missing", func(_ *debtest.Debian, l *rebuild.Lock) { l.Packages = l.Packages[:3] }},
		{"signed but unwanted package", "package_unwanted", func(d *debtest.Debian, l *rebuild.Lock) {
			l.Packages = append(l.Packages, rebuild.Package{Name: "other", Version: "1", Architecture: "amd64", Index: "bookworm",
				Blob: file(d, "pool/main/o/other/other_1_amd64.deb")})
		}},
		{"security index left out", "index_missing", func(_ *debtest.Debian, l *rebuild.Lock) { l.Indices = l.Indices[:2] }},
		{"security index replaced by another", "index_identity", func(_ *debtest.Debian, l *rebuild.Lock) { l.Indices[2] = l.Indices[1] }},
		{"one index under another's name", "index_identity", func(_ *debtest.Debian, l *rebuild.Lock) {
			l.Indices[2].InRelease.SHA256, l.Indices[2].InRelease.Size = l.Indices[1].InRelease.SHA256, l.Indices[1].InRelease.Size
		}},
		{"index dated newer than signed", "index_identity", func(_ *debtest.Debian, l *rebuild.Lock) {
			l.Indices[2].Date = l.Indices[2].Date.Add(24 * time.Hour)
		}},
		{"index signed by another key", "index_signature", func(d *debtest.Debian, l *rebuild.Lock) {
			text := debtest.New().Sign("Codename: bookworm-security\nDate: Fri, 20 Nov 2026 02:11:10 UTC\nSHA256:\n " + ident.Sum(nil).String() + " 0 a\n")
			d.Set("x", text)
			l.Indices[2].InRelease.SHA256, l.Indices[2].InRelease.Size = ident.Sum(text), int64(len(text))
		}},
		{"list of packages that isn't the signed one", "index_hash", func(d *debtest.Debian, l *rebuild.Lock) {
			list := debtest.Compress("xz", []byte("Package: app\n"))
			d.Set("x", list)
			l.Indices[0].Packages.SHA256, l.Indices[0].Packages.Size = ident.Sum(list), int64(len(list))
		}},
		{"blob that the source doesn't have", "source_missing", func(d *debtest.Debian, _ *rebuild.Lock) {
			d.Remove("debian/pool/main/a/app/app_1_amd64.deb")
		}},
		{"another runtime's lock", "lock_definition", func(_ *debtest.Debian, l *rebuild.Lock) { l.Runtime = "other" }},
		{"another definition's lock", "lock_definition", func(_ *debtest.Debian, l *rebuild.Lock) { l.Definition[0] ^= 1 }},
		{"huge index", "source_size", func(_ *debtest.Debian, l *rebuild.Lock) { l.Indices[0].InRelease.Size = 1 << 40 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := tiny()
			l := resolve(t, d, def)
			c.change(d, l)
			_, err := build(t, d, def, l)
			if err == nil {
				t.Fatal("accepted")
			}
			p := problem.From(err)
			t.Log(p)
			if p.Rule != c.rule {
				t.Errorf("rule %s, want %s", p.Rule, c.rule)
			}
		})
	}
}

// liar hands out other bytes than it was asked for.
type liar struct {
	*debtest.Debian
	instead map[ident.Digest][]byte
}

func (l liar) Open(ctx context.Context, d ident.Digest) (io.ReadCloser, error) {
	if b, ok := l.instead[d]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return l.Debian.Open(ctx, d)
}

func TestLyingSource(t *testing.T) {
	d, def := tiny(), parse(t, definition)
	l := resolve(t, d, def)
	for _, b := range l.Blobs() {
		honest, err := d.Open(t.Context(), b.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(honest)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(text)
		flipped[len(flipped)-1] ^= 1
		for what, bytes := range map[string][]byte{
			"flipped": flipped, "cut": text[:len(text)-1], "longer": append(slices.Clone(text), 0), "empty": nil,
		} {
			dir := t.TempDir()
			img, err := rebuild.Builder{Keyring: d.Keyring(), TempDir: dir}.Build(t.Context(), def, l, liar{d, map[ident.Digest][]byte{b.SHA256: bytes}})
			if err == nil {
				_ = img.Close()
				t.Errorf("%s, %s: accepted", b.Path, what)
				continue
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("%s, %s: left %v", b.Path, what, left)
			}
		}
	}
}

func TestHostilePackages(t *testing.T) {
	def := parse(t, strings.Replace(definition, "[app, ca-certificates]", "[app]", 1))
	with := func(entries ...tar.Header) *debtest.Debian {
		d := debtest.New()
		d.Add(debtest.Package{Name: "app", Version: "1", Fields: "Depends: base\n", Deb: debtest.Deb("gz", entries...)})
		d.Add(debtest.Package{Name: "base", Version: "1", Deb: debtest.Deb("gz", debtest.File("./usr/bin/base", 0o755, "base"), debtest.Dir("./usr/share/"))})
		d.Publish()
		return d
	}
	for _, c := range []struct {
		name    string
		rule    problem.Rule
		entries []tar.Header
	}{
		{"leaves the package", "deb_format", []tar.Header{debtest.File("./../x", 0o644, "x")}},
		{"through a link", "deb_format", []tar.Header{debtest.Link("./usr/out", "/"), debtest.File("./usr/out/etc/passwd", 0o644, "x")}},
		{"below a file", "deb_format", []tar.Header{debtest.File("./usr/a", 0o644, "x"), debtest.File("./usr/a/b", 0o644, "x")}},
		{"device", "deb_special_file", []tar.Header{{Name: "./dev/mem", Typeflag: tar.TypeChar}}},
		{"another package's file", "deb_conflict", []tar.Header{debtest.File("./usr/bin/base", 0o755, "mine")}},
		{"another package's file by the old folder", "deb_conflict", []tar.Header{debtest.File("./bin/base", 0o755, "mine")}},
		{"link over a directory", "deb_conflict", []tar.Header{debtest.Dir("./usr/x/"), debtest.Link("./usr/x", "/etc")}},
		{"own file twice", "deb_conflict", []tar.Header{debtest.File("./usr/x", 0o644, "1"), debtest.File("./usr/x", 0o644, "2")}},
		{"hard link to another's file", "deb_format", []tar.Header{debtest.Hard("./usr/x", "./usr/bin/base")}},
		{"usr is a link", "deb_conflict", []tar.Header{debtest.Dir("./usr/"), debtest.Link("./usr", "/tmp")}},
		{"mount point is a link", "runtime_layout", []tar.Header{debtest.Link("./proc", "/usr")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := with(c.entries...)
			_, err := build(t, d, def, resolve(t, d, def))
			if err == nil {
				t.Fatal("accepted")
			}
			t.Log(err)
			if rule := problem.From(err).Rule; rule != c.rule {
				t.Errorf("rule %s, want %s", rule, c.rule)
			}
		})
	}
	d := with(debtest.File("./cupel-init", 0o4777, "mine"), debtest.File("./etc/passwd", 0o666, "app::0:0::/:"))
	img, err := build(t, d, def, resolve(t, d, def))
	if err != nil {
		t.Fatal(err)
	}
	if l := listing(t, img); !strings.Contains(l, "0 755 0 cupel-init\n") || !strings.Contains(l, "0 644 0 etc/passwd \"127 bytes\"\n") {
		t.Errorf("a package's /cupel-init or /etc/passwd got in:\n%s", l)
	}
}

func TestCancelled(t *testing.T) {
	d, def := tiny(), parse(t, definition)
	l := resolve(t, d, def)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if _, err := (rebuild.Builder{Keyring: d.Keyring(), TempDir: dir}).Build(ctx, def, l, d); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestDebianIsTheDefault(t *testing.T) {
	d, def := tiny(), parse(t, definition)
	_, err := rebuild.Builder{}.Build(t.Context(), def, resolve(t, d, def), d)
	if err == nil || problem.From(err).Rule != "index_signature" {
		t.Errorf("a build by another key than Debian's: %v", err)
	}
}

func TestLayout(t *testing.T) {
	d, def := tiny(), parse(t, definition)
	img, err := build(t, d, def, resolve(t, d, def))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := img.WriteLayout(dir); err != nil {
		t.Fatal(err)
	}
	src := rebuild.NewDirSource(dir, &rebuild.Lock{})
	for _, want := range append(img.DiffIDs(), img.ConfigDigest(), img.ManifestDigest()) {
		r, err := src.Open(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil || ident.Sum(b) != want {
			t.Errorf("blob %s: %v", want, err)
		}
		_ = r.Close()
	}
	if err := errors.Join(img.Close(), img.Close()); err != nil {
		t.Error(err)
	}
}

func TestShippedDefinitions(t *testing.T) {
	if names := runtimes.Names(); !slices.Contains(names, "python") || !slices.Contains(names, "puller") {
		t.Errorf("definitions %v", names)
	}
	for _, name := range runtimes.Names() {
		text, ok := runtimes.Definition(name)
		if !ok {
			t.Fatalf("no %s", name)
		}
		if def := parse(t, string(text)); def.Name != name {
			t.Errorf("%s.yml defines %s", name, def.Name)
		}
	}
	if _, ok := runtimes.Definition("../runtimes/python"); ok {
		t.Error("a path was taken for a name")
	}
}
