package procfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/internal/testing/need"
)

// named runs a program that does nothing until the test ends, under a name.
func named(t *testing.T, path, name string, as *syscall.SysProcAttr) int {
	t.Helper()
	c := exec.Command(path, "-f", "/dev/null", t.Name())
	c.Args[0], c.SysProcAttr = name, as
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c.Process.Pid
}

// copied is a copy of the program tail, under a name of its own.
func copied(t *testing.T, name string) string {
	t.Helper()
	tail, err := exec.LookPath("tail")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/var/tmp", "cupel-proc-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, name)
	if out, err := exec.Command("cp", tail, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCommands: a program's name is only believed where its executable has it, also
// once that was replaced.
func TestCommands(t *testing.T) {
	path := copied(t, "containerd")
	true1 := named(t, path, "/usr/bin/containerd", nil)
	false1 := named(t, path, "runc", nil)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	list, err := Commands()
	if err != nil {
		t.Fatal(err)
	}
	for pid, name := range map[int]string{true1: "containerd", false1: "", os.Getpid(): filepath.Base(os.Args[0])} {
		i := slices.IndexFunc(list, func(c Command) bool { return c.PID == pid })
		if i < 0 || list[i].Name != name || list[i].User != os.Geteuid() || !list[i].Alive() {
			t.Errorf("process %d, want %q: %+v", pid, name, list[max(i, 0)])
		}
	}
	if c := (Command{PID: true1, Start: 1}); c.Alive() {
		t.Error("another process is taken for it")
	}
}

// TestLinkedProgram: a program that is installed as a link to a file of another name, as
// by update-alternatives, is that program, also once that file was replaced. Another
// program that calls itself so isn't.
func TestLinkedProgram(t *testing.T) {
	versioned, other := copied(t, "containerd-1.7.24"), copied(t, "build-of-today")
	shim := copied(t, "containerd-shim-runc-v2")
	link := filepath.Join(filepath.Dir(other), "containerd")
	if err := errors.Join(os.Symlink(versioned, filepath.Join(filepath.Dir(versioned), "containerd")), os.Symlink(other, link)); err != nil {
		t.Fatal(err)
	}
	replaced := named(t, versioned, "containerd", nil)
	for pid, want := range map[int]string{
		replaced:                                "containerd",
		named(t, other, link, nil):              "containerd",
		named(t, shim, "containerd", nil):       "",
		named(t, other, "containerd", nil):      "",
		named(t, other, "/bin/containerd", nil): "",
	} {
		if c, ok := CommandOf(pid); !ok || c.Name != want {
			t.Errorf("want %q: %+v", want, c)
		}
	}
	if err := os.Remove(versioned); err != nil {
		t.Fatal(err)
	}
	if c, ok := CommandOf(replaced); !ok || c.Name != "containerd" {
		t.Errorf("replaced: %+v", c)
	}
}

// TestCommandsOfOthers: another user's process, or an instance's, which may have the same
// user, is none of ours, however it calls itself.
func TestCommandsOfOthers(t *testing.T) {
	need.Root(t)
	const stranger = 65534
	path := copied(t, "containerd")
	for name, as := range map[string]*syscall.SysProcAttr{
		"another user's":             {Credential: &syscall.Credential{Uid: stranger, Gid: stranger}},
		"one that numbers processes": {Cloneflags: syscall.CLONE_NEWPID},
		"one that numbers users": {
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{Size: 1 << 16}}, GidMappings: []syscall.SysProcIDMap{{Size: 1 << 16}},
		},
	} {
		pid := named(t, path, "containerd", as)
		if c, ok := CommandOf(pid); ok {
			t.Errorf("%s: %+v", name, c)
		}
		if as.Credential != nil && Named(pid, "containerd") {
			t.Errorf("%s is taken for root's", name)
		}
		if c, ok := CommandOf(pid, stranger); ok != (as.Credential != nil) || ok && (c.Name != "containerd" || c.User != stranger) {
			t.Errorf("%s, asked for: %+v, %v", name, c, ok)
		}
	}
}

// TestHidden: where /proc hides others' processes, one that is there is told from one that
// isn't, and nothing else is said of it.
func TestHidden(t *testing.T) {
	if pid, err := strconv.Atoi(os.Getenv("CUPEL_TEST_HIDDEN")); err == nil { // in the mount namespace
		fmt.Println(Hidden(pid), Hidden(1<<22), Hidden(os.Getpid()), Named(pid, "containerd"))
		return
	}
	need.Root(t)
	need.Programs(t, "unshare", "setpriv", "mount")
	if Hidden(os.Getpid()) || Hidden(1) || Hidden(0) || Hidden(-1) {
		t.Error("root's own are hidden from it")
	}
	pid := named(t, copied(t, "containerd"), "containerd", nil)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	test := copied(t, "test")
	if out, err := exec.Command("cp", self, test).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := exec.Command("unshare", "--mount", "sh", "-c",
		`mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=65534 --regid=65534 --clear-groups "$0" -test.run='^TestHidden$'`, test)
	c.Dir, c.Env = "/", append(os.Environ(), "CUPEL_TEST_HIDDEN="+strconv.Itoa(pid))
	out, err := c.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "true false false false\n") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestCommandsOfBorrowedRights: who starts a program with root's rights isn't root.
func TestCommandsOfBorrowedRights(t *testing.T) {
	need.Root(t)
	path := copied(t, "containerd")
	if err := os.Chmod(path, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	pid := named(t, path, "containerd", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
	if c, ok := CommandOf(pid); ok {
		t.Errorf("%+v", c)
	}
}
