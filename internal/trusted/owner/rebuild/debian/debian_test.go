package debian_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/testing/debtest"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/owner/rebuild/debian"
)

func TestCompareVersions(t *testing.T) {
	// Each list goes from older to newer; deb-version(7).
	for _, list := range [][]string{
		{"1.0~~", "1.0~~a", "1.0~", "1.0", "1.0+b1", "1.0.1", "1.1", "1:0.1", "2:0"},
		{"1.0-1~deb12u1", "1.0-1", "1.0-1+deb12u1", "1.0-1+deb12u2", "1.0-1+deb12u10", "1.0-2"},
		{"3.0.9-1", "3.0.22-1~deb12u2", "3.0.22-1"},
		{"1.0a", "1.0+", "1.0."},
		{"9", "10", "100"},
		{"1.2", "1.2a"},
	} {
		for i, a := range list {
			for j, b := range list {
				if got, want := debian.CompareVersions(a, b), i-j; got < 0 != (want < 0) || got > 0 != (want > 0) {
					t.Errorf("CompareVersions(%q, %q) = %d", a, b, got)
				}
			}
		}
	}
	for _, same := range [][2]string{{"1.0", "0:1.0"}, {"1.00", "1.0"}, {"1.0-0", "1.0"}, {"01", "1"}} {
		if debian.CompareVersions(same[0], same[1]) != 0 {
			t.Errorf("%q and %q differ", same[0], same[1])
		}
	}
}

func release(codename string, lines ...string) string {
	return "Origin: Debian\nCodename: " + codename + "\nDate: Fri, 20 Nov 2026 02:11:10 UTC\nSHA256:\n" +
		" " + ident.Sum(nil).String() + " 0 main/binary-amd64/Packages.xz\n" + strings.Join(lines, "")
}

func TestVerifyRelease(t *testing.T) {
	d := debtest.New()
	text := d.Sign(release("bookworm"))
	rel, err := debian.VerifyRelease(d.Keyring(), text)
	if err != nil {
		t.Fatal(err)
	}
	if rel.Codename != "bookworm" || !rel.Date.Equal(debtest.Date) || len(rel.Files) != 1 || len(rel.Signer) != 40 {
		t.Errorf("release %+v", rel)
	}
	real, err := debian.ArchiveKeyring()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		keyring debian.Keyring
		text    []byte
	}{
		"another key":       {real, text},
		"no keys":           {debian.Keyring{}, text},
		"text before":       {d.Keyring(), append([]byte("x\n"), text...)},
		"text after":        {d.Keyring(), append(bytes.Clone(text), "Codename: other\n"...)},
		"two messages":      {d.Keyring(), append(bytes.Clone(text), text...)},
		"unsigned":          {d.Keyring(), []byte(release("bookworm"))},
		"empty":             {d.Keyring(), nil},
		"field twice":       {d.Keyring(), d.Sign(release("bookworm", "Codename: trixie\n"))},
		"carriage return":   {d.Keyring(), d.Sign(release("bookworm", "Label: a\rCodename: trixie\n"))},
		"no date":           {d.Keyring(), d.Sign("Codename: bookworm\nSHA256:\n " + ident.Sum(nil).String() + " 0 a\n")},
		"two hashes":        {d.Keyring(), d.Sign(release("bookworm", " "+ident.Sum([]byte("x")).String()+" 0 main/binary-amd64/Packages.xz\n"))},
		"signature expired": {d.Keyring(), d.Sign(strings.Replace(release("bookworm"), "20 Nov 2026", "20 Nov 2016", 1))},
		"too large":         {d.Keyring(), bytes.Repeat([]byte("x"), debian.MaxInRelease+1)},
	} {
		if rel, err := debian.VerifyRelease(c.keyring, c.text); err == nil {
			t.Errorf("%s: accepted as %+v", name, rel)
		}
	}
}

// TestEveryByteOfReleaseCounts flips one bit of every byte: what still verifies
// must say the same (armour headers and line ends aren't signed).
func TestEveryByteOfReleaseCounts(t *testing.T) {
	d := debtest.New()
	text := d.Sign(release("bookworm"))
	keyring := d.Keyring()
	want, err := debian.VerifyRelease(keyring, text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		flipped := bytes.Clone(text)
		flipped[i] ^= 1
		if got, err := debian.VerifyRelease(keyring, flipped); err == nil && cmp.Diff(want, got) != "" {
			t.Errorf("byte %d: %q accepted with another meaning", i, flipped[max(0, i-10):min(len(flipped), i+10)])
		}
	}
}

// TestRealRelease verifies what Debian itself signed, if this machine has it.
func TestRealRelease(t *testing.T) {
	keyring, err := debian.ArchiveKeyring()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("/var/lib/apt/lists/*_dists_bookworm*_InRelease")
	if err != nil || len(files) == 0 {
		need.Missing(t, "apt's lists of bookworm: apt-get update")
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := debian.VerifyRelease(keyring, b)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		t.Logf("%s of %s by %s", rel.Codename, rel.Date.Format(time.DateOnly), rel.Signer)
		b[bytes.Index(b, []byte("Codename: bookworm"))+11] ^= 1
		if _, err := debian.VerifyRelease(keyring, b); err == nil {
			t.Errorf("%s: accepted with a changed codename", f)
		}
	}
}

func stanza(name, version, extra string) string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\n%sFilename: pool/%s.deb\nSize: 1\nSHA256: %s\n\n",
		name, version, extra, name, ident.Sum([]byte(name+version)))
}

func TestParsePackages(t *testing.T) {
	text := stanza("a", "1", "Pre-Depends: b\nDepends: c, d\nDescription: x\n folded\n .\n") +
		strings.Replace(stanza("b", "1", ""), "amd64", "arm64", 1) + strings.Replace(stanza("c", "2", ""), "amd64", "all", 1)
	got, err := debian.ParsePackages(strings.NewReader(text), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Depends != "b, c, d" || got[1].Name != "c" {
		t.Errorf("packages %+v", got)
	}
	for name, text := range map[string]string{
		"no field":       "Package\n",
		"field twice":    "Package: a\nPackage: b\n",
		"bad name":       stanza("../a", "1", ""),
		"bad version":    stanza("a", "1 2", ""),
		"no hash":        "Package: a\nVersion: 1\nArchitecture: amd64\nFilename: pool/a\nSize: 1\n",
		"bad hash":       "Package: a\nSHA256: xyz\n",
		"negative size":  "Package: a\nSize: -1\n",
		"absolute path":  strings.Replace(stanza("a", "1", ""), "pool/", "/pool/", 1),
		"path with ..":   strings.Replace(stanza("a", "1", ""), "pool/", "pool/../../", 1),
		"path of a URL":  strings.Replace(stanza("a", "1", ""), "pool/", "pool?x=", 1),
		"folded depends": stanza("a", "1", "Depends: b,\n c\n"),
	} {
		if got, err := debian.ParsePackages(strings.NewReader(text), "amd64"); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
}

func universe(t *testing.T, texts ...string) *debian.Universe {
	t.Helper()
	var lists [][]debian.Package
	for _, text := range texts {
		list, err := debian.ParsePackages(strings.NewReader(text), "amd64")
		if err != nil {
			t.Fatal(err)
		}
		lists = append(lists, list)
	}
	return debian.NewUniverse(lists...)
}

func TestResolve(t *testing.T) {
	u := universe(t,
		stanza("app", "1", "Depends: lib (>= 1.2), sh | nosh, mta\n")+stanza("lib", "1.0", "")+stanza("sh", "1", "")+
			stanza("nosh", "1", "")+stanza("exim", "1", "Provides: mta\n")+stanza("postfix", "1", "Provides: mta\n")+
			stanza("loop-a", "1", "Depends: loop-b:any\n")+stanza("loop-b", "1", "Depends: loop-a\n")+
			stanza("picky", "1", "Depends: lib (>> 9)\n")+stanza("versioned", "1", "Depends: v (= 3)\n")+
			stanza("gives-v", "1", "Provides: v (= 3)\n")+stanza("either", "1", "Depends: gone | sh\n")+
			stanza("odd", "1", "Depends: lib (about 1)\n"),
		stanza("lib", "1.3", "Depends: libdep\n")+stanza("libdep", "1", ""))
	names := func(ps []debian.Package) string {
		var out []string
		for _, p := range ps {
			out = append(out, p.Name+"="+p.Version)
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ wanted, excluded, want string }{
		{"app", "", "app=1 exim=1 lib=1.3 libdep=1 sh=1"},
		{"app postfix", "", "app=1 lib=1.3 libdep=1 postfix=1 sh=1"},
		{"app nosh", "mta", "app=1 lib=1.3 libdep=1 nosh=1"},
		{"app", "lib sh exim", "app=1"},
		{"loop-a", "", "loop-a=1 loop-b=1"},
		{"versioned", "", "gives-v=1 versioned=1"},
		{"either", "", "either=1 sh=1"},
		{"picky", "", "package picky: nothing in the indices satisfies [lib (>> 9)]"},
		{"odd", "", "package odd: nothing in the indices satisfies [lib (unreadable )]"},
		{"none", "", "package none is in none of the indices"},
		{"lib", "lib", "package lib is both wanted and excluded"},
	} {
		got, err := u.Resolve(strings.Fields(c.wanted), strings.Fields(c.excluded))
		text := names(got)
		if err != nil {
			text = err.Error()
		}
		if text != c.want {
			t.Errorf("Resolve(%q without %q) = %s, want %s", c.wanted, c.excluded, text, c.want)
		}
	}
}

func readDeb(b []byte) (string, error) {
	var out strings.Builder
	err := debian.ReadDeb(bytes.NewReader(b), func(e debian.Entry, body io.Reader) error {
		content, err := io.ReadAll(body)
		fmt.Fprintf(&out, "%c %s %o %s %s\n", e.Type, e.Path, e.Mode, e.Link, content)
		return err
	})
	return out.String(), err
}

func TestReadDeb(t *testing.T) {
	want := "5  755  \n5 usr 755  \n0 usr/sudo 755  root\n2 usr/l 777 ../../etc \n1 usr/h 644 usr/sudo \n"
	for _, compression := range []string{"xz", "gz", ""} {
		got, err := readDeb(debtest.Deb(compression, debtest.Dir("./"), debtest.Dir("./usr/"), debtest.File("./usr/sudo", 0o6755, "root"),
			debtest.Link("./usr/l", "../../etc"), debtest.Hard("./usr/h", "./usr/sudo")))
		if err != nil || got != want {
			t.Errorf("%q: %v\n%s", compression, err, cmp.Diff(want, got))
		}
	}
}

func TestHostileDebs(t *testing.T) {
	data := func(entries ...tar.Header) []byte { return debtest.Deb("gz", entries...) }
	member := func(name string, content []byte) debtest.Member { return debtest.Member{Name: name, Content: content} }
	version := member("debian-binary", []byte("2.0\n"))
	control := member("control.tar.gz", debtest.Compress("gz", debtest.Tar()))
	good := debtest.Compress("gz", debtest.Tar(debtest.File("./a", 0o644, strings.Repeat("x", 5000))))
	for name, b := range map[string][]byte{
		"empty":               nil,
		"no ar":               []byte("PK\x03\x04"),
		"parent":              data(debtest.File("./../etc/passwd", 0o644, "x")),
		"deep parent":         data(debtest.File("./usr/../../etc/passwd", 0o644, "x")),
		"absolute":            data(debtest.File("/etc/passwd", 0o644, "x")),
		"double slash":        data(debtest.File("./usr//x", 0o644, "x")),
		"long element":        data(debtest.File("./"+strings.Repeat("x", 300), 0o644, "x")),
		"hard link outside":   data(debtest.Hard("./x", "../../etc/shadow")),
		"empty link":          data(debtest.Link("./x", "")),
		"root is a link":      data(debtest.Link("./", "/etc")),
		"character device":    data(tar.Header{Name: "./dev/mem", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 1}),
		"block device":        data(tar.Header{Name: "./dev/sda", Typeflag: tar.TypeBlock, Devmajor: 8}),
		"pipe":                data(tar.Header{Name: "./pipe", Typeflag: tar.TypeFifo}),
		"format 3.0":          debtest.Ar(member("debian-binary", []byte("3.0\n")), control, member("data.tar.gz", good)),
		"data first":          debtest.Ar(version, member("data.tar.gz", good), control),
		"no data":             debtest.Ar(version, control),
		"unknown compression": debtest.Ar(version, control, member("data.tar.lzma", good)),
		"cut data":            debtest.Ar(version, control, member("data.tar.gz", good[:len(good)-20])),
		"wrong checksum":      debtest.Ar(version, control, member("data.tar.gz", flip(good, len(good)-6))),
		"second data":         debtest.Ar(version, control, member("data.tar.gz", good), member("data.tar.gz", good)),
		"cut file":            debtest.Ar(version, control, member("data.tar.gz", good))[:150],
		"size is no number":   bytes.Replace(debtest.Ar(version, control, member("data.tar.gz", good)), []byte("4         `"), []byte("four      `"), 1),
	} {
		if got, err := readDeb(b); err == nil {
			t.Errorf("%s: accepted:\n%s", name, got)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	if _, err := readDeb(data(tar.Header{Name: "./dev/mem", Typeflag: tar.TypeChar})); !errors.Is(err, debian.ErrSpecial) {
		t.Errorf("device: error %v, want ErrSpecial", err)
	}
}

func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 0x40
	return b
}

func FuzzDeb(f *testing.F) {
	for _, compression := range []string{"xz", "gz", ""} {
		f.Add(debtest.Deb(compression, debtest.Dir("./"), debtest.File("./a", 0o4755, "x"), debtest.Link("./l", "a"), debtest.Hard("./h", "./a")))
	}
	f.Add(debtest.Deb("", debtest.File("./../x", 0o644, "x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = debian.ReadDeb(bytes.NewReader(b), func(e debian.Entry, body io.Reader) error {
			if strings.HasPrefix(e.Path, "/") || e.Path == ".." || strings.HasPrefix(e.Path, "../") || strings.Contains(e.Path, "/../") ||
				strings.HasSuffix(e.Path, "/..") {
				t.Fatalf("path %q", e.Path)
			}
			if e.Mode&^0o1777 != 0 {
				t.Fatalf("%q: mode %o", e.Path, e.Mode)
			}
			_, err := io.Copy(io.Discard, io.LimitReader(body, 1<<20))
			return err
		})
	})
}

func FuzzRelease(f *testing.F) {
	d := debtest.New()
	keyring := d.Keyring()
	f.Add(d.Sign(release("bookworm")))
	f.Add([]byte(release("bookworm")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if rel, err := debian.VerifyRelease(keyring, b); err == nil && (rel.Codename == "" || rel.Signer == "") {
			t.Fatalf("accepted %+v", rel)
		}
	})
}

func FuzzPackages(f *testing.F) {
	f.Add([]byte(stanza("a", "1", "Depends: b | c (>= 1), d:any\nProvides: e (= 2)\n") + stanza("b", "1", "")))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := debian.ParsePackages(bytes.NewReader(b), "amd64")
		if err != nil {
			return
		}
		u := debian.NewUniverse(list)
		for _, p := range list {
			_, _ = u.Resolve([]string{p.Name}, nil)
			if newest, ok := u.Newest(p.Name); !ok || debian.CompareVersions(newest.Version, p.Version) < 0 {
				t.Fatalf("%s %s is newer than the newest, %s", p.Name, p.Version, newest.Version)
			}
		}
	})
}
