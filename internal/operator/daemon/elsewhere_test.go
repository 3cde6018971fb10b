package daemon

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/client"
)

// TestStateByTwoNames: what runs by one name of a folder is not started a second time by
// another, and who tries hears the right name. Once nothing runs, any name will do.
func TestStateByTwoNames(t *testing.T) {
	o := upOptions(t)
	second := o
	second.State = o.State + "-bound"
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	for _, dir := range []string{o.State, second.State} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run("mount", "--bind", o.State, second.State)
	t.Cleanup(func() { _ = syscall.Unmount(second.State, syscall.MNT_DETACH) })
	succeeds := func(args ...string) {
		t.Helper()
		if _, stderr, code := cupeld(t, ":", args...); code != 0 {
			t.Fatalf("%s: exit %d: %s", args, code, stderr)
		}
	}
	kill := func() {
		t.Helper()
		e, err := client.ReadEndpoint(o.State)
		if err == nil {
			err = syscall.Kill(e.PID, syscall.SIGKILL)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := newLayout(second.State)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(mend string) {
		t.Helper()
		before := b.processes()
		for _, args := range [][]string{upFlags(o), {"down", "--state", o.State}, {"down", "--force", "--state", o.State}, {"cleanup", "--yes", "--state", o.State}} {
			_, stderr, code := cupeld(t, ":", args...)
			if code != 4 || !strings.Contains(stderr, "state_elsewhere: "+o.State+" is the folder that was started as "+second.State) || !strings.Contains(stderr, mend) {
				t.Errorf("%s: exit %d: %s", args[0], code, stderr)
			}
			if args[0] == "up" {
				t.Log(stderr)
			}
		}
		if s, err := newLayout(o.State); err != nil || s.containerdRuns() || len(before) == 0 || !b.containerdRuns() {
			t.Errorf("by the other name ran %v, and runs %v; by this one %v", before, b.processes(), s.processes())
		}
	}

	succeeds(upFlags(second)...)
	kill()
	refused("run it with --state " + second.State)
	succeeds("down", "--state", second.State)
	succeeds(upFlags(o)...)
	succeeds("down", "--state", o.State)

	// The name goes while things run: they are ended by it all the same.
	succeeds(upFlags(second)...)
	kill()
	if err := syscall.Unmount(second.State, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(second.State); err != nil {
		t.Fatal(err)
	}
	refused("'cupel down --state " + second.State + " --force', and run this again")
	succeeds("down", "--state", second.State)
	nothingLeft(t, second)
	succeeds(upFlags(o)...)
	succeeds("down", "--state", o.State)

	// A folder that was moved goes on by its new name, and what its old one left is gone.
	succeeds(upFlags(o)...)
	kill()
	old, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range old.processes() { // as by the end of the machine
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	if err := os.Rename(o.State, second.State); err != nil {
		t.Fatal(err)
	}
	succeeds(upFlags(second)...)
	nothingLeft(t, o)
	succeeds("cleanup", "--yes", "--state", second.State)
	nothingLeft(t, second)
}

// TestCopyOfAState: a copy of a folder that is still there is one of its own, and a word
// that is damaged says nothing.
func TestCopyOfAState(t *testing.T) {
	original, err := newLayout(folder(t))
	if err != nil {
		t.Fatal(err)
	}
	copied, err := newLayout(folder(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{original.dir, copied.dir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	emptied, err := newLayout(folder(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(original.path("runtimes"), 0o755), os.Mkdir(emptied.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]bool{
		"": false, "path\n": false, "/a": false, "/a\x00\n": false, "/a/../b\n": false, "/nonexistent/a\n": true,
		original.dir + "\n": false, copied.dir + "\n": false, emptied.dir + "\n": true,
	} {
		if err := os.WriteFile(copied.path(pathFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if other, ok := copied.before(); ok != want {
			t.Errorf("%q: it was %s before", content, other.dir)
		}
	}
}
