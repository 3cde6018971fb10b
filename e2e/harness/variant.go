//go:build e2e

package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cupel.dev/cupel/e2e/harness/variants"
)

// Variant builds the binaries as a variant of the product, for a test's positive
// control or its attacker, and returns their folder. Like `make build` it writes the
// digests of the trusted ones into the others.
func Variant(t testing.TB, v variants.Variant) string {
	t.Helper()
	dir := filepath.Join(source(), ".cache", "e2e", "bin-"+string(v))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	overlay, _, err := variants.Overlay(source(), v, dir)
	if err != nil {
		t.Fatal(err)
	}

	build := func(name, flags string) string {
		t.Helper()
		out := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-overlay", overlay, "-ldflags", "-s -w "+flags, "-o", out, "./cmd/"+name)
		cmd.Dir = source()
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s as the variant %s: %v: %s", name, v, err, msg)
		}

		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		return hex.EncodeToString(sum[:])
	}

	const version = "-X cupel.dev/cupel/internal/version."
	flags := version + "launcher=" + build("cupel-init", "") + " " + version + "cas=" + build("cupel-cas", "")
	build("cupel", flags)
	build("cupeld", flags)
	build("cupel-log", "")
	return dir
}
