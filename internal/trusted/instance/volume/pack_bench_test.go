package volume

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cupel.dev/cupel/internal/testing/need"
)

// manyFiles is a volume of small files.
const manyFiles = 50_000

func smallFiles(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	for n := range manyFiles {
		folder := filepath.Join(dir, fmt.Sprint(n/500))
		if n%500 == 0 {
			must(b, os.Mkdir(folder, 0o755))
		}
		must(b, os.WriteFile(filepath.Join(folder, fmt.Sprint(n)), []byte("a small file's content\n"), 0o644))
	}
	return dir
}

// BenchmarkSmallFiles packs and unpacks a volume of many small files, as a commit and the
// next start do; tar does the same beside it.
func BenchmarkSmallFiles(b *testing.B) {
	need.Programs(b, "tar")
	dir := smallFiles(b)
	var packed bytes.Buffer
	must(b, Pack(b.Context(), openRoot(b, dir), &packed, plenty))

	b.Run("pack", func(b *testing.B) {
		for b.Loop() {
			must(b, Pack(b.Context(), openRoot(b, dir), &bytes.Buffer{}, plenty))
		}
	})
	b.Run("pack, tar", func(b *testing.B) {
		for b.Loop() {
			must(b, exec.Command("tar", "-C", dir, "-cf", filepath.Join(b.TempDir(), "x.tar"), ".").Run())
		}
	})
	b.Run("unpack", func(b *testing.B) {
		for b.Loop() {
			must(b, Unpack(b.Context(), bytes.NewReader(packed.Bytes()), openRoot(b, b.TempDir()), plenty))
		}
	})
	b.Run("unpack, tar", func(b *testing.B) {
		for b.Loop() {
			tar := exec.Command("tar", "-C", b.TempDir(), "-xf", "-")
			tar.Stdin = bytes.NewReader(packed.Bytes())
			must(b, tar.Run())
		}
	})
}
