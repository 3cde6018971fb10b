package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/upflags"
)

// TestDeployKeys: the file holds as it is at the time, and nobody may where it
// can't be read.
func TestDeployKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	listed := listedKeys(file)
	anna, bert := ident.KeyHash{0xa0}, ident.KeyHash{0xb0}
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	if ok, err := listed(anna); ok || problem.From(err).Rule != "deploy_keys" {
		t.Errorf("without a file: %v, %v", ok, err)
	}
	write("# who may\n\n" + anna.String() + "  # anna\n")
	if ok, err := listed(anna); !ok || err != nil {
		t.Errorf("listed: %v, %v", ok, err)
	}
	if ok, err := listed(bert); ok || err != nil {
		t.Errorf("not listed: %v, %v", ok, err)
	}
	write(bert.String() + "\nanna\n")
	if ok, err := listed(bert); !ok || err != nil {
		t.Errorf("listed since: %v, %v", ok, err)
	}
	if ok, err := listed(anna); ok || problem.From(err).Rule != "deploy_keys" {
		t.Errorf("a line that is no key: %v, %v", ok, err)
	}

	for path, want := range map[string]string{file + ".none": file + ".none: no such file", file: file + ": line 2 is no key"} {
		_, err := keyLimits(Options{Installation: upflags.Installation{DeployKeys: path}})
		p := problem.From(err)
		if p == nil || p.Kind != problem.Invalid || !strings.Contains(p.Actual, strings.TrimSuffix(want, ": no such file")) || strings.Contains(p.Mend, "operator") {
			t.Errorf("starts with %s, or doesn't tell its operator why not: %v", path, err)
		}
	}
	if _, err := keyLimits(Options{Installation: upflags.Installation{AppQuota: "apps=many"}}); err == nil {
		t.Error("starts with a quota that can't be read")
	}
	limits, err := keyLimits(Options{Installation: upflags.Installation{AppQuota: "apps=3", LowPorts: "80,443"}})
	if err != nil || limits.Apps != 3 || limits.Memory == 0 || len(limits.LowPorts) != 2 {
		t.Errorf("%+v, %v", limits, err)
	}
}
