package daemon

import (
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
