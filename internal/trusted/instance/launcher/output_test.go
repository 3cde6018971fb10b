package launcher

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKeepReadable(t *testing.T) {
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.Close() })
		return r, w
	}
	for _, keep := range []bool{false, true} {
		r, w := pipe()
		if keep {
			if err := keepReadable(int(w.Fd())); err != nil {
				t.Fatal(err)
			}
		}
		_ = r.Close()
		if _, err := w.WriteString("a line\n"); errors.Is(err, unix.EPIPE) == keep {
			t.Errorf("kept %t: a write after the reader died: %v", keep, err)
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := keepReadable(int(f.Fd())); err != nil {
		t.Errorf("a file: %v", err)
	}
	if err := keepReadable(-1); err == nil {
		t.Error("no descriptor was taken for one")
	}
}
