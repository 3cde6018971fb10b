package volume

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/wire"
)

const plenty = 1 << 30

func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes a directory with everything that a volume may hold.
func tree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("repo/.git/objects"), 0o755))
	must(t, os.WriteFile(at("repo/app.py"), []byte("print('hello')\n"), 0o644))
	must(t, os.WriteFile(at("repo/run"), bytes.Repeat([]byte{1}, 10000), 0o755))
	must(t, os.WriteFile(at("repo/empty"), nil, 0o400))
	must(t, os.WriteFile(at("caf\xe9 \u00fc\n"), []byte("odd name"), 0o640))
	must(t, os.Symlink("../../../etc/passwd", at("repo/escape")))
	must(t, os.Symlink("app.py", at("repo/alias")))
	must(t, os.Link(at("repo/run"), at("zlink")))
	must(t, os.Mkdir(at("closed"), 0o700))
	must(t, os.Chmod(at("closed"), 0o500|os.ModeSticky))
	must(t, os.Chtimes(at("repo/app.py"), time.Time{}, time.Unix(1700000000, 123456789)))
	if os.Getuid() == 0 {
		must(t, os.Chown(at("repo/app.py"), 1234, 5678))
		must(t, os.Chown(at("closed"), 1234, 1234))
	}
	return dir
}

func pack(t testing.TB, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	must(t, Pack(t.Context(), openRoot(t, dir), &out, plenty))
	return out.Bytes()
}

func wantRule(t testing.TB, err error, rule problem.Rule) {
	t.Helper()
	if err == nil || problem.From(err).Rule != rule {
		t.Errorf("got %v, want rule %s", err, rule)
	}
}

func TestRoundTrip(t *testing.T) {
	b := pack(t, tree(t))
	dir := t.TempDir()
	must(t, Unpack(t.Context(), bytes.NewReader(b), openRoot(t, dir), plenty))
	if again := pack(t, dir); !bytes.Equal(b, again) {
		t.Error("packing what was unpacked gives other bytes")
	}
	var got []string
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		got = append(got, h.Name)
	}
	want := []string{
		"./", "caf\xe9 \u00fc\n", "closed/", "repo/", "repo/.git/", "repo/.git/objects/",
		"repo/alias", "repo/app.py", "repo/empty", "repo/escape", "repo/run", "zlink",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	st := func(name string) *syscall.Stat_t {
		info, err := os.Lstat(filepath.Join(dir, name))
		must(t, err)
		return info.Sys().(*syscall.Stat_t)
	}
	if st("zlink").Ino != st("repo/run").Ino {
		t.Error("a hard link became a copy")
	}
	if s := st("closed"); s.Mode&0o7777 != 0o1500 || (os.Getuid() == 0 && s.Uid != 1234) {
		t.Errorf("closed: mode %o, uid %d", s.Mode&0o7777, s.Uid)
	}
}

func TestEqualTreesGiveEqualBytes(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	when := time.Unix(1700000000, 5)
	for i, dir := range []string{a, b} {
		names := []string{"x", "y", "z"}
		if i == 1 {
			names = []string{"z", "x", "y"} // another order of making
		}
		for _, n := range names {
			must(t, os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600))
			must(t, os.Chtimes(filepath.Join(dir, n), when, when))
		}
		must(t, os.Chtimes(dir, when, when))
	}
	if !bytes.Equal(pack(t, a), pack(t, b)) {
		t.Error("equal trees, different bytes")
	}
}

func TestSocketsAndPipesAreLeftOut(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	must(t, err)
	defer l.Close()
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	h, err := tar.NewReader(bytes.NewReader(pack(t, dir))).Next()
	if err != nil || h.Name != "./" {
		t.Errorf("%v %v", h, err)
	}
}

func TestDevicesAreRefused(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	must(t, syscall.Mknod(filepath.Join(dir, "null"), syscall.S_IFCHR|0o666, 1<<8|3))
	wantRule(t, Pack(t.Context(), openRoot(t, dir), io.Discard, plenty), RuleArchive)
}

func TestTooLarge(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a"), bytes.Repeat([]byte{1}, 100<<10), 0o600))
	b := pack(t, dir)
	wantRule(t, Pack(t.Context(), openRoot(t, dir), io.Discard, 100<<10), wire.RuleVolumeTooLarge)
	_, err := Measure(t.Context(), openRoot(t, dir), 100<<10)
	wantRule(t, err, wire.RuleVolumeTooLarge)
	into := t.TempDir()
	wantRule(t, Unpack(t.Context(), bytes.NewReader(b), openRoot(t, into), 100<<10), wire.RuleVolumeTooLarge)
	if info, err := os.Stat(filepath.Join(into, "a")); err != nil || info.Size() > 100<<10-2*entryCost {
		t.Errorf("content was written before it was accounted for: %v, %v", info.Size(), err)
	}
	if n, err := Measure(t.Context(), openRoot(t, dir), plenty); err != nil || n != (Size{100 << 10, 2}) || n.Total() != 100<<10+2*entryCost {
		t.Errorf("measured %v, %v", n, err)
	}
	m := meter{limit: plenty}
	must(t, m.entry(plenty))
	wantRule(t, m.entry(-1), RuleArchive)
	wantRule(t, m.entry(1<<62), wire.RuleVolumeTooLarge)
}

// TestHoles: what a file doesn't keep in memory counts for nothing and comes back
// as it was; a length beyond all reason is refused before anything is sent.
func TestHoles(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a")
	must(t, os.WriteFile(name, nil, 0o600))
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("in the middle"), 5<<20+100)
	must(t, err)
	must(t, f.Truncate(7<<20+3))
	must(t, f.Sync())
	must(t, f.Close())

	const limit = 1 << 20
	size, err := Measure(t.Context(), openRoot(t, dir), limit)
	if err != nil || size.Content > 64<<10 {
		t.Fatalf("measured %v, %v", size, err)
	}
	var packed bytes.Buffer
	must(t, Pack(t.Context(), openRoot(t, dir), &packed, limit))
	into := t.TempDir()
	must(t, Unpack(t.Context(), &packed, openRoot(t, into), limit))
	want, err := os.ReadFile(name)
	must(t, err)
	got, err := os.ReadFile(filepath.Join(into, "a"))
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("another content came back")
	}
	if again, err := Measure(t.Context(), openRoot(t, into), limit); err != nil || again.Content > size.Content {
		t.Errorf("unpacked it takes %v, %v; before %v", again, err, size)
	}

	must(t, os.Truncate(name, 1<<40))
	_, err = Measure(t.Context(), openRoot(t, dir), limit)
	wantRule(t, err, wire.RuleVolumeTooLarge)
	wantRule(t, Pack(t.Context(), openRoot(t, dir), io.Discard, limit), wire.RuleVolumeTooLarge)
}

// TestRoom: a file system that is as full as it can be holds a tree that fits.
func TestRoom(t *testing.T) {
	for _, used := range []Size{{}, {0, 1}, {100 << 20, 3}, {1 << 20, 90_000}, {192<<20 - 1024, 1}} {
		const limit = 192 << 20
		content, names := used.Room(limit)
		if full := (Size{content, names}); full.Total() > limit || content < used.Content || names < used.Names {
			t.Errorf("%v has room for %v, which costs %d of %d", used, full, full.Total(), limit)
		}
		if free := limit - used.Total(); free > 1<<20 && (content-used.Content < free/2 || names-used.Names < free/8192) {
			t.Errorf("%v has room for %d bytes and %d names only", used, content, names)
		}
	}
}

func TestHardLinkedContentCountsOnce(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a"), bytes.Repeat([]byte{1}, 64<<10), 0o600))
	must(t, os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
	if n, err := Measure(t.Context(), openRoot(t, dir), plenty); err != nil || n != (Size{64 << 10, 3}) {
		t.Errorf("measured %v, %v", n, err)
	}
}

// archive builds what a hostile packer could.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		h.Format = tar.FormatPAX
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		h.Uid, h.Gid = max(h.Uid, os.Getuid()), max(h.Gid, os.Getgid())
		must(t, w.WriteHeader(&h))
		_, err := w.Write(make([]byte, h.Size))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func TestHostileArchives(t *testing.T) {
	rootEntry := tar.Header{Name: "./", Typeflag: tar.TypeDir}
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 3} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	cases := map[string][]tar.Header{
		"absolute":               {rootEntry, file("/etc/passwd")},
		"parent":                 {rootEntry, file("../x")},
		"hidden parent":          {rootEntry, {Name: "a/", Typeflag: tar.TypeDir}, file("a/../../x")},
		"not clean":              {rootEntry, file("a//b")},
		"through a symlink":      {rootEntry, link("a", "/etc"), file("a/passwd")},
		"symlink then directory": {rootEntry, link("a", "/etc"), {Name: "a/", Typeflag: tar.TypeDir}},
		"symlink then file":      {rootEntry, link("a", "/tmp/x"), file("a")},
		"symlink to nothing":     {rootEntry, link("a", "")},
		"hard link out":          {rootEntry, {Name: "a", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"}},
		"hard link to symlink":   {rootEntry, link("a", "/etc/shadow"), {Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}},
		"character device":       {rootEntry, {Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		"block device":           {rootEntry, {Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}},
		"pipe":                   {rootEntry, {Name: "pipe", Typeflag: tar.TypeFifo}},
		"no parent":              {rootEntry, file("a/b")},
		"twice":                  {rootEntry, file("a"), file("a")},
		"root twice":             {rootEntry, rootEntry},
		"root is a file":         {{Name: ".", Typeflag: tar.TypeReg}},
		"no root":                {file("a")},
		"empty":                  {},
	}
	for name, entries := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			wantRule(t, Unpack(t.Context(), bytes.NewReader(archive(t, entries...)), openRoot(t, dir), plenty), RuleArchive)
		})
	}
	t.Run("followed by more", func(t *testing.T) {
		b := append(archive(t, rootEntry), 1)
		wantRule(t, Unpack(t.Context(), bytes.NewReader(b), openRoot(t, t.TempDir()), plenty), RuleArchive)
	})
	t.Run("source refuses at its end", func(t *testing.T) {
		forked := problem.New(problem.Denied, "volume_forked", "x")
		r := io.MultiReader(bytes.NewReader(archive(t, rootEntry, file("a"))), iotest.ErrReader(forked))
		wantRule(t, Unpack(t.Context(), r, openRoot(t, t.TempDir()), plenty), "volume_forked")
	})
	t.Run("source refuses within", func(t *testing.T) {
		forked := problem.New(problem.Denied, "volume_tampered", "x")
		r := io.MultiReader(bytes.NewReader(archive(t, rootEntry, file("a"))[:1100]), iotest.ErrReader(forked))
		wantRule(t, Unpack(t.Context(), r, openRoot(t, t.TempDir()), plenty), "volume_tampered")
	})
}

// FuzzUnpack: no panic, nothing outside the directory, and what is accepted
// packs and unpacks to the same.
func FuzzUnpack(f *testing.F) {
	f.Add(pack(f, tree(f)))
	f.Add(archive(f, tar.Header{Name: "./", Typeflag: tar.TypeDir}, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
		tar.Header{Name: "a/b", Typeflag: tar.TypeReg, Size: 1}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "in")
		must(t, os.Mkdir(dir, 0o700))
		err := Unpack(t.Context(), bytes.NewReader(b), openRoot(t, dir), 1<<20)
		if names, _ := os.ReadDir(outer); len(names) != 1 {
			t.Fatal("something was written beside the directory")
		}
		if err != nil {
			return
		}
		first := pack(t, dir)
		again := t.TempDir()
		must(t, Unpack(t.Context(), bytes.NewReader(first), openRoot(t, again), plenty))
		if !bytes.Equal(first, pack(t, again)) {
			t.Fatal("not the same after another round")
		}
	})
}
