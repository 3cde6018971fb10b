package node

import (
	"os"
	"path/filepath"
	"testing"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
)

// TestLaunchersAreKept: after an upgrade what was deployed before is started with
// the launcher that it was deployed with, until nothing names that any more.
func TestLaunchersAreKept(t *testing.T) {
	state, binary := t.TempDir(), filepath.Join(t.TempDir(), "cupel-init")
	upgrade := func(content string) *Node {
		t.Helper()
		if err := os.WriteFile(binary, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		n, err := New(Config{State: state, Launcher: binary})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	before := upgrade("one").LauncherDigest()
	n := upgrade("two")
	if n.LauncherDigest() == before {
		t.Fatal("the upgrade changed nothing")
	}
	for name, c := range map[string]struct {
		digest ident.Digest
		want   string
	}{"none named": {ident.Digest{}, "two"}, "the new one": {n.LauncherDigest(), "two"}, "the one before": {before, "one"}} {
		file, err := n.launcherFile(c.digest)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}

	if err := n.DropLaunchers([]ident.Digest{before}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.launcherFile(before); err != nil {
		t.Errorf("dropped though a revision names it: %v", err)
	}
	n.instances["i-1"] = newInstance(&record{Spec: manager.InstanceSpec{ID: "i-1", Launcher: before}})
	if err := n.DropLaunchers(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.launcherFile(before); err != nil {
		t.Errorf("dropped though an instance has it: %v", err)
	}
	delete(n.instances, "i-1")
	if err := n.DropLaunchers(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.launcherFile(before); problem.From(err).Rule != "launcher_missing" {
		t.Errorf("%v, want launcher_missing", err)
	}
	if _, err := n.launcherFile(n.LauncherDigest()); err != nil {
		t.Errorf("its own was dropped: %v", err)
	}
}

// TestDamagedLauncher: a copy that the disk damaged is made anew, and one that can't be
// is told as missing: nothing is started that no session can know.
func TestDamagedLauncher(t *testing.T) {
	state, binary := t.TempDir(), filepath.Join(t.TempDir(), "cupel-init")
	begin := func(content string) *Node {
		t.Helper()
		n, err := New(Config{State: state, Launcher: binary})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(n.launcher); err != nil || string(got) != content {
			t.Fatalf("the launcher is %q, %v; want %q", got, err, content)
		}
		return n
	}
	install := func(content string) {
		t.Helper()
		if err := os.WriteFile(binary, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	install("one")
	n := begin("one")
	one := n.LauncherDigest()
	if err := os.Truncate(n.launcher, 1); err != nil {
		t.Fatal(err)
	}
	n = begin("one")
	if err := os.Truncate(n.launcher, 0); err != nil {
		t.Fatal(err)
	}
	install("two")
	n = begin("two")
	if _, err := n.launcherFile(one); err == nil || problem.From(err).Rule != "launcher_missing" || problem.From(err).Mend == "" {
		t.Errorf("a damaged launcher: %v", err)
	}
}
