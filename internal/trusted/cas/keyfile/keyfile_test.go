package keyfile

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
)

func TestSealOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	s, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.Seal("session/a", 3, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("secret")) {
		t.Error("sealed bytes hold the plain ones")
	}
	if plain, err := again.Open("session/a", 3, sealed); err != nil || string(plain) != "secret" {
		t.Errorf("%q, %v", plain, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"another row":     func() ([]byte, error) { return again.Open("session/b", 3, sealed) },
		"another version": func() ([]byte, error) { return again.Open("session/a", 2, sealed) },
		"empty":           func() ([]byte, error) { return again.Open("session/a", 3, nil) },
	} {
		if _, err := open(); err == nil || problem.From(err).Rule != "row_sealed" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range sealed {
		for bit := range 8 {
			b := bytes.Clone(sealed)
			b[i] ^= 1 << bit
			if _, err := again.Open("session/a", 3, b); err == nil {
				t.Fatalf("opened with bit %d of byte %d flipped", bit, i)
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	good := func(t *testing.T, path string) {
		if _, err := Create(path); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, path string)
		rule    string
	}{
		"missing": {func(*testing.T, string) {}, "sealing_key_missing"},
		"readable by others": {func(t *testing.T, path string) {
			good(t, path)
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "sealing_key_permission"},
		"a link": {func(t *testing.T, path string) {
			good(t, path+".real")
			if err := os.Symlink(path+".real", path); err != nil {
				t.Fatal(err)
			}
		}, "sealing_key_form"},
		"a folder": {func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "sealing_key_form"},
		"cut": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(prefix+"00ff\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "sealing_key_form"},
		"empty": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "sealing_key_form"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			c.prepare(t, path)
			_, err := Load(path)
			if err == nil || string(problem.From(err).Rule) != c.rule || problem.From(err).Mend == "" {
				t.Fatalf("%v; want rule %s and a mend", err, c.rule)
			}
			t.Log(err)
		})
	}
}

func TestWrongKey(t *testing.T) {
	dir := t.TempDir()
	a, err := Create(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Create(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := a.Seal("x", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Open("x", 1, sealed)
	if err == nil || problem.From(err).Rule != "sealing_key" {
		t.Fatalf("%v", err)
	}
	t.Log(err)
	if _, err := Create(filepath.Join(dir, "a")); err == nil {
		t.Error("Create replaced a key file")
	}
	if text, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || !strings.HasPrefix(string(text), prefix) {
		t.Errorf("%q, %v", text, err)
	}
}

func FuzzOpen(f *testing.F) {
	s, err := Create(filepath.Join(f.TempDir(), "key"))
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := s.Seal("row", 1, []byte("plain"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if plain, err := s.Open("row", 1, b); err == nil && !bytes.Equal(b, sealed) {
			t.Errorf("opened to %q", plain)
		}
	})
}
