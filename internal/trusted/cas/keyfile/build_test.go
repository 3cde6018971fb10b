package keyfile

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The build that writes plaintext exists for one purpose, to prove that a leak
// search finds what it looks for. It must be impossible to get by accident.
func TestDefaultBuildEncrypts(t *testing.T) {
	goFiles := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("go", append(append([]string{"list"}, args...), "-f", "{{.GoFiles}}", ".")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if files := goFiles(); strings.Contains(files, "plaintext") {
		t.Errorf("default build holds %s", files)
	}
	if files := goFiles("-tags=cupel_plaintext"); !strings.Contains(files, "aead_plaintext.go") {
		t.Errorf("the tagged build lacks its file: %s", files)
	}
	if testing.Short() {
		t.Skip("builds the CAS")
	}
	marker := []byte("ROWS ARE NOT ENCRYPTED")
	for _, c := range []struct {
		tags string
		want bool
	}{{"", false}, {"cupel_plaintext", true}} {
		bin := filepath.Join(t.TempDir(), "cupel-cas")
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags="+c.tags, "-o", bin, "cupel.dev/cupel/cmd/cupel-cas")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(b, marker); got != c.want {
			t.Errorf("tags %q: marker in the CAS: %t", c.tags, got)
		}
	}
}
