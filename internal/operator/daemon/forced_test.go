package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/internal/need"
	"cupel.dev/cupel/internal/proc"
	"cupel.dev/cupel/internal/trusted/disk"
	"cupel.dev/cupel/internal/trusted/problem"
)

// TestForceEndsADeafCupeld: one that doesn't end when it is told to is ended by force,
// and what waits for it is said once.
func TestForceEndsADeafCupeld(t *testing.T) {
	need.Root(t)
	state := folder(t)
	_, ended := deaf(t, state)
	l, err := newLayout(state)
	if err != nil {
		t.Fatal(err)
	}

	var told []string
	o := Options{State: l.dir, Force: true, forcedReport: 3 * tellEvery, tell: func(line string) { told = append(told, line) }}
	if err := os.WriteFile(l.path("grace"), []byte("1ms\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Down(t.Context(), o, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	<-ended // by a signal
	if len(told) != 1 || !strings.Contains(told[0], "its apps stop and store their volumes\n  instance i-1-1: it can't store") {
		t.Errorf("told: %q", told)
	}
}

// deaf runs what is a cupeld as far as can be seen: it has the lock of the folder, which
// it was given by that path, and hears no signal that it can ignore.
func deaf(t *testing.T, state string) (pid int, ended chan struct{}) {
	t.Helper()
	l, err := newLayout(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.path("runtimes"), 0o755); err != nil {
		t.Fatal(err)
	}
	if l, err = newLayout(state); err != nil {
		t.Fatal(err)
	}
	lock, err := l.lock(workUp)
	if err != nil {
		t.Fatal(err)
	}
	bash, err := os.ReadFile("/bin/bash")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "cupeld")
	if err := os.WriteFile(program, bash, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", `trap "" INT TERM; echo; read -r`, "up", "--state", state)
	cmd.ExtraFiles = []*os.File{lock.f}
	_, err = cmd.StdinPipe() // stays open
	said, perr := cmd.StdoutPipe()
	if err := errors.Join(err, perr); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended = make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if _, err := said.Read(make([]byte, 1)); err != nil { // its trap is set
		t.Fatal(err)
	}
	if _, err := lock.f.WriteAt(fmt.Appendf(nil, "%-*d%s\n", pidWidth, cmd.Process.Pid, workUp), 0); err != nil {
		t.Fatal(err)
	}
	lock.say("instance i-1-1: it can't store")
	lock.release() // the other one holds it still
	return cmd.Process.Pid, ended
}

// TestForceEndsCupeldOfALink: by whatever path a cupeld was given its folder, it is known
// by the lock that it holds, and another process that calls itself so isn't.
func TestForceEndsCupeldOfALink(t *testing.T) {
	need.Root(t)
	dir := folder(t)
	link := filepath.Join(t.TempDir(), "state")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	pid, ended := deaf(t, link)
	other, _ := deaf(t, folder(t))
	l, err := newLayout(link)
	if err != nil {
		t.Fatal(err)
	}
	if !l.holds(pid) || l.holds(other) || l.holds(os.Getpid()) {
		t.Errorf("holds the lock: %t, another one's %t, this process %t", l.holds(pid), l.holds(other), l.holds(os.Getpid()))
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for !proc.Stopped(pid) {
		time.Sleep(time.Millisecond)
	}
	if err := Down(t.Context(), Options{State: link, Force: true}, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	<-ended
}

// TestReadOnlyState: on a disk that the kernel gave up writing to, what runs can be
// ended, and what needs to write says so and what to do.
func TestReadOnlyState(t *testing.T) {
	need.Root(t)
	need.Programs(t, "mkfs.ext4", "mount")
	image, at := filepath.Join(t.TempDir(), "image"), filepath.Dir(folder(t))
	o := Options{State: filepath.Join(at, "state")}
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 32<<20)); err != nil {
		t.Fatal(err)
	}
	run("mkfs.ext4", "-q", image)
	run("mount", "-o", "loop", image, at)
	t.Cleanup(func() { run("umount", at) })
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.path("runtimes"), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := l.lock(workDown)
	if err != nil {
		t.Fatal(err)
	}
	lock.release()
	run("mount", "-o", "remount,abort", at)

	for _, force := range []bool{false, true} {
		o.Force = force
		if err := Down(t.Context(), o, slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("down, by force: %v: %v", force, err)
		}
	}
	_, err = Cleanup(t.Context(), o, slog.New(slog.DiscardHandler))
	for name, err := range map[string]error{
		"cleanup": err,
		"up":      Up(t.Context(), Options{State: o.State, FirstPort: 8082, CASOwners: "127.0.0.1:0", CASInstances: "127.0.0.1:0", ManagerListen: "127.0.0.1:0", RegistryListen: "127.0.0.1:0"}, slog.New(slog.DiscardHandler), nil),
	} {
		if p := problem.From(err); err == nil || p.Rule != disk.RuleReadOnly || !strings.Contains(p.Mend, "umount, fsck, mount") {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A database tells it in a number, and the file system not before it is tried.
	if p := problem.From(disk.Explain(ioerr(778), o.State, "the state folder")); p.Rule != disk.RuleReadOnly {
		t.Errorf("a database: %v", p)
	}
}

// ioerr is an error as the database's driver returns it.
type ioerr int

func (e ioerr) Error() string { return fmt.Sprintf("disk I/O error (%d)", int(e)) }
func (e ioerr) Code() int     { return int(e) }
