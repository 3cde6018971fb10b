package daemon

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRotatingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	for range 2 { // the second time appends
		r, err := openRotating(path, 100)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if _, err := r.Write([]byte(strings.Repeat("x", 29) + "\n")); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Write([]byte("x")); err == nil {
			t.Errorf("a closed log takes more")
		}
	}
	now, _ := os.ReadFile(path)
	before, _ := os.ReadFile(path + ".1")
	if len(now) != 30 || len(before) != 90 { // ten lines, three in a file, two files kept
		t.Errorf("%d and %d bytes are kept", len(now), len(before))
	}
}

// TestLogsElsewhere: a log that is a link stays one however much is written, also by who
// knows nothing of its size. The older file lies beside what the link leads to, and a device
// has none.
func TestLogsElsewhere(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "cas.log")
	for _, target := range []string{os.DevNull, elsewhere} {
		path := filepath.Join(t.TempDir(), "cas.log")
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		r, err := openRotating(path, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, letter := range "abc" {
			if _, err := r.Write(bytes.Repeat([]byte(string(letter)), 60)); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		stays := func() {
			t.Helper()
			if to, err := os.Readlink(path); err != nil || to != target {
				t.Errorf("a link to %s: it is none any more", target)
			}
			if exists(path+".1") || exists(os.DevNull+".1") {
				t.Errorf("a link to %s: the older file lies elsewhere", target)
			}
		}
		stays()
		if target == os.DevNull {
			if err := setAside(path, 0); err != nil {
				t.Error(err)
			}
			stays()
			continue
		}
		holds := func(now, before string) {
			t.Helper()
			a, err1 := os.ReadFile(target)
			b, err2 := os.ReadFile(target + ".1")
			if err := errors.Join(err1, err2); err != nil || string(a) != now || string(b) != before {
				t.Errorf("%q and %q, %v", a, b, err)
			}
		}
		holds(strings.Repeat("c", 60), strings.Repeat("b", 60))
		if err := setAside(path, 4); err != nil {
			t.Fatal(err)
		}
		stays()
		holds("", strings.Repeat("c", 60))
	}
}
