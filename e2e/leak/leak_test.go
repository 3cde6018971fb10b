package leak

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/testing/need"
)

func newSecret(t *testing.T) (*Searcher, []byte) {
	t.Helper()
	secret := make([]byte, 33)
	_, _ = rand.Read(secret)
	s, err := New(map[string][]byte{"token": secret})
	if err != nil {
		t.Fatal(err)
	}
	return s, secret
}

func TestFindsEveryForm(t *testing.T) {
	s, secret := newSecret(t)
	around := func(form string) []byte { return fmt.Appendf(nil, "before %s after", form) }
	cases := map[string][]byte{
		"raw":               around(string(secret)),
		"hex":               around(hex.EncodeToString(secret)),
		"upper case hex":    around(strings.ToUpper(hex.EncodeToString(secret))),
		"url query":         around(url.QueryEscape(string(secret))),
		"url path":          around(url.PathEscape(string(secret))),
		"url, all bytes":    around(percent(secret)),
		"at the end":        append(bytes.Repeat([]byte{'x'}, 3<<20), secret...),
		"across two pieces": append(bytes.Repeat([]byte{'x'}, 1<<20-5), append(secret, 'y')...),
	}
	for before := range 4 {
		plain := append(bytes.Repeat([]byte{'x'}, before), append(bytes.Clone(secret), "yz"...)...)
		cases[fmt.Sprint("base64 after ", before)] = []byte(base64.StdEncoding.EncodeToString(plain))
		cases[fmt.Sprint("base64url after ", before)] = []byte(base64.URLEncoding.EncodeToString(plain))
	}
	for name, data := range cases {
		for _, packing := range []struct {
			name string
			pack func([]byte) []byte
		}{{"plain", bytes.Clone}, {"gzip", gzipped}, {"zlib", zlibbed}, {"twice", func(b []byte) []byte { return gzipped(zlibbed(b)) }}} {
			t.Run(name+"/"+packing.name, func(t *testing.T) {
				found, err := s.Reader(bytes.NewReader(packing.pack(data)), "here")
				if err != nil || len(found) == 0 {
					t.Errorf("found %v, %v", found, err)
				}
			})
		}
	}
}

func TestFindsNothing(t *testing.T) {
	s, secret := newSecret(t)
	other := bytes.Clone(secret)
	other[len(other)/2] ^= 1
	for _, data := range [][]byte{nil, other, gzipped(other), []byte(base64.StdEncoding.EncodeToString(other)), {0x1f, 0x8b, 1}, []byte("PACK"), {0x78, 0x9c}} {
		if found, err := s.Reader(bytes.NewReader(data), "here"); err != nil || len(found) > 0 {
			t.Errorf("%q: %v, %v", data, found, err)
		}
	}
}

func TestRefusesShortSecrets(t *testing.T) {
	if _, err := New(map[string][]byte{"x": []byte("short")}); err == nil {
		t.Error("a short secret would be found by chance")
	}
}

// A repository keeps its files in loose objects, then in a pack, some as deltas.
func TestFindsInGit(t *testing.T) {
	need.Programs(t, "git")
	s, secret := newSecret(t)
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	noise := make([]byte, 20000)
	_, _ = rand.Read(noise)
	text := hex.EncodeToString(noise)
	commit := func(content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		git("add", ".")
		git("-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "-m", "state")
	}
	git("init", "-q")
	// The worst case: the delta can copy the ends of what it inserts.
	planted := hex.EncodeToString(secret)
	text = text[:8998] + planted[len(planted)-2:] + planted[:2] + text[9002:]
	commit(text)
	commit(text[:9000] + planted + text[9000:])
	commit(text + text[:100])
	expect := func(t *testing.T) {
		t.Helper()
		if found, err := s.Tree(filepath.Join(dir, ".git")); err != nil || len(found) == 0 {
			t.Errorf("found %v, %v", found, err)
		}
	}
	t.Run("loose", expect)
	git("gc", "-q", "--aggressive")
	if packs, _ := filepath.Glob(filepath.Join(dir, ".git/objects/pack/*.pack")); len(packs) != 1 {
		t.Fatalf("packs: %v", packs)
	}
	t.Run("packed", expect)
	t.Run("packed in a layer", func(t *testing.T) {
		var layer bytes.Buffer
		z := gzip.NewWriter(&layer)
		archive := tar.NewWriter(z)
		if err := errors.Join(archive.AddFS(os.DirFS(dir+"/.git")), archive.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		found, err := s.Reader(&layer, "layer")
		if err != nil || len(found) == 0 || !strings.Contains(found[0].Where, ".pack) (object ") {
			t.Errorf("found %v, %v", found, err)
		}
	})
}

func TestFindsInProcesses(t *testing.T) {
	token := hex.EncodeToString([]byte(rand.Text()))
	s, err := New(map[string][]byte{"token": []byte(token)})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "60")
	cmd.Env = []string{"TOKEN=" + token}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	found, err := s.Processes(func(string) bool { return false })
	if err != nil || len(found) == 0 {
		t.Errorf("found %v, %v", found, err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\x95\x01x\x9c"))
	f.Add(gzipped(gzipped([]byte("x"))))
	f.Add(zlibbed([]byte("x")))
	f.Add(append(make([]byte, 257), append([]byte("ustar\x0000"), make([]byte, 1500)...)...))
	s, err := New(map[string][]byte{"token": bytes.Repeat([]byte("token"), 5)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := s.Reader(bytes.NewReader(data), "here"); err != nil {
			t.Error(err)
		}
	})
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func zlibbed(b []byte) []byte {
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}
