package arch

import (
	"go/ast"
	"go/build/constraint"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// platforms are the only words that may choose between files of the product.
var platforms = []string{"linux", "unix", "amd64", "arm64"}

// TestOneBuild: there is one product. No tag turns its encryption off or makes its
// node hostile: what tests need of that kind replaces files (e2e/harness/variants).
func TestOneBuild(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	eachFile(t, root, func(path string, _ *token.FileSet, _ *ast.File) {
		files++
		text := read(t, path)
		for _, tag := range tags(t, text) {
			if !slices.Contains(platforms, tag) {
				t.Errorf("%s is chosen by the build tag %q", path, tag)
			}
		}
		if strings.Contains(text, "CUPEL_HOSTILE") || strings.Contains(text, "plaintextAEAD") {
			t.Errorf("%s holds what belongs to a variant", path)
		}
	})
	if files < 100 {
		t.Errorf("%d files: the test doesn't read what it should", files)
	}

	if got := tags(t, "//go:build linux && !evil\n\npackage p\n"); !slices.Equal(got, []string{"linux", "evil"}) {
		t.Errorf("tags %q", got)
	}
}

// tags are the build tags that a file's constraints name.
func tags(t *testing.T, text string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if !constraint.IsGoBuild(line) && !constraint.IsPlusBuild(line) {
			continue
		}
		expr, err := constraint.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		expr.Eval(func(tag string) bool {
			found = append(found, tag)
			return true
		})
	}
	return found
}
