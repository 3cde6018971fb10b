// Package need says what a test needs of the machine: root, programs, files.
//
// Where something is missing a test is skipped, so that `go test ./...` is of use
// on any machine; each skip says what it needs. `make test` promises that
// everything was tried: it sets CUPEL_REQUIRE_ALL=1, and the same tests fail.
// A skip which no set-up of the machine can avoid (a folder of private sessions,
// a kernel's limits) stays a plain t.Skip.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Root is for tests which run containers, make namespaces or mount.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root")
	}
}

// Programs have to be in PATH; scripts/setup installs the packages of them all.
func Programs(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Missing(t, name)
		}
	}
}

// File has to exist.
func File(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		Missing(t, path)
	}
}

// Missing ends a test that needs what this machine doesn't have.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CUPEL_REQUIRE_ALL") != "" {
		t.Fatalf("needs %s (CUPEL_REQUIRE_ALL is set: nothing may be skipped)", what)
	} else {
		t.Skip("needs " + what)
	}
}
