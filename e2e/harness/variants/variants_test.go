package variants

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVariantsFit: each variant's files still fit the packages whose files they
// replace, and do what they are for.
func TestVariantsFit(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for v, want := range map[Variant]int{Plaintext: 3, Hostile: 1} {
		t.Run(string(v), func(t *testing.T) {
			file, packages, err := Overlay(root, v, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if len(packages) != want {
				t.Errorf("it changes %q", packages)
			}
			cmd := exec.Command("go", append([]string{"test", "-overlay", file, "-run", "^TestVariant", "-v"}, packages...)...)
			cmd.Dir = root
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v:\n%s", err, out)
			}
			if n := strings.Count(string(out), "--- PASS: TestVariant"); n < want {
				t.Errorf("%d tests ran:\n%s", n, out)
			}
		})
	}
}

// TestOverlayWantsItsFile: a variant of a file that the product has no more is told.
func TestOverlayWantsItsFile(t *testing.T) {
	if _, _, err := Overlay(t.TempDir(), Hostile, t.TempDir()); err == nil {
		t.Error("no variant, no error")
	}
}
