package daemon

import (
	"bytes"
	"context"
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

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/procfs"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/trusted/wire"
	"cupel.dev/cupel/internal/upflags"
)

// TestForceEndsADeafCupeld: one that doesn't end when it is told to is ended by force,
// and by who deletes all of it; what waits for it is said.
func TestForceEndsADeafCupeld(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	byForce := func(o Options) error { o.Force = true; return stopAll(t.Context(), o, log) }
	deletes := func(o Options) error { _, err := Cleanup(t.Context(), o, log); return err }
	for name, test := range map[string]struct {
		end     func(Options) error
		stopped bool
		o       Options
	}{
		"down --force":                  {byForce, false, Options{forcedReport: 3 * tellEvery}},
		"down --force of a quiet one":   {byForce, false, Options{forcedReport: time.Hour, quietLimit: 3 * tellEvery}},
		"down --force of a stopped one": {byForce, true, Options{forcedReport: time.Hour}},
		"cleanup":                       {deletes, false, Options{forcedReport: 3 * tellEvery}},
		"cleanup of a stopped one":      {deletes, true, Options{forcedReport: time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			l, pid, ended := deafCupeld(t)
			if test.stopped {
				stopProcess(t, pid)
			}
			var told []string
			test.o.State, test.o.tell = l.dir, func(line string) { told = append(told, line) }
			if err := test.end(test.o); err != nil {
				t.Error(err)
			}
			<-ended // by a signal
			if !test.stopped && len(told) == 0 {
				t.Error("nothing told")
			}
			for _, line := range told {
				if strings.Contains(line, "waiting") && !strings.Contains(line, "its apps stop and store their volumes\ninstance i-1-1: it can't store") {
					t.Errorf("told: %q", line)
				}
			}
		})
	}
}

// TestWaitingAsAPersonSeesIt: what cupeld says of what it waits for is a line of its own.
func TestWaitingAsAPersonSeesIt(t *testing.T) {
	var seen strings.Builder
	held := &lockedError{pid: 7, what: workEnd, note: "not ended yet: i-1-1 (running)"}
	(&cli{err: &seen}).tell()(held.waits())
	if want := "waiting for cupeld (process 7): its apps stop and store their volumes\n  | not ended yet: i-1-1 (running)\n"; seen.String() != want {
		t.Errorf("%q", seen.String())
	}
}

// TestQuietCupeld: down waits for a cupeld as long as it says that it works, and then
// names what ends it; it ends nothing by itself.
func TestQuietCupeld(t *testing.T) {
	l, pid, ended := deafCupeld(t)
	err := stopAll(t.Context(), Options{State: l.dir, quietLimit: time.Second}, slog.New(slog.DiscardHandler))
	p := problem.From(err)
	if err == nil || p.Rule != ruleDownTimeout || !strings.Contains(p.Actual, "has said nothing of it for 1 second") ||
		!strings.Contains(p.Mend, "'cupel down --force' ends it") || !strings.Contains(p.Mend, "is lost") {
		t.Errorf("a quiet one: %v", err)
	}
	select {
	case <-ended:
		t.Error("it was ended")
	default:
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Error(err)
	}
}

// TestRenewed: a holder that says the same again has said something.
func TestRenewed(t *testing.T) {
	l := layout{dir: t.TempDir()}
	lock, err := l.lock(workUp)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.release()
	held := func() *lockedError {
		t.Helper()
		_, err := l.lock(workDown)
		e, ok := errors.AsType[*lockedError](err)
		if !ok || e.what != workUp || !e.renews || e.pid != os.Getpid() {
			t.Fatalf("%+v: %v", e, err)
		}
		return e
	}
	lock.say("a")
	before := held().word()
	for deadline := time.Now().Add(20 * time.Second); held().word() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("said again, and nobody hears it")
		}
		lock.say("a")
	}

	list := []manager.InstanceStatus{{ID: "i-1-1", State: manager.StateStopping, Phase: string(wire.Committing)}, {ID: "i-2-1", State: manager.StateRunning}, {ID: "i-3-1", State: manager.StateExited}}
	if line, stops := stillRuns(list); !stops || line != "not ended yet: i-1-1 (stores its volumes), i-2-1 (running)" {
		t.Errorf("%v, %q", stops, line)
	}
	if line, stops := stillRuns(list[1:]); stops || line != "not ended yet: i-2-1 (running)" { // nobody stops it
		t.Errorf("%v, %q", stops, line)
	}
	p := newParts(l, slog.New(slog.DiscardHandler))
	told := make(chan string, 10)
	p.ends.say = func(line string) { told <- line }
	p.ends.warn("a disk is full")
	<-told
	ended := p.tellEnd(t.Context(), func(context.Context) ([]manager.InstanceStatus, error) { return list, nil })
	defer ended()
	if line := <-told; line != "a disk is full; not ended yet: i-1-1 (stores its volumes), i-2-1 (running)" {
		t.Errorf("told %q", line)
	}
}

// deafCupeld is a deaf one of a folder of its own, whose apps have next to no grace.
func deafCupeld(t *testing.T) (l layout, pid int, ended chan struct{}) {
	t.Helper()
	need.Root(t)
	state := folder(t)
	pid, ended = deaf(t, state)
	l, err := newLayout(state)
	if err == nil {
		err = os.WriteFile(l.path("grace"), []byte("1ms\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l, pid, ended
}

// stopProcess stops a process by a signal, and waits until it is.
func stopProcess(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !procfs.Stopped(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it goes on")
		}
	}
}

// deaf runs what is a cupeld as far as can be seen, which hears no signal that it can ignore.
func deaf(t *testing.T, state string) (pid int, ended chan struct{}) {
	t.Helper()
	return asCupeld(t, state, `trap "" INT TERM; echo; read -r`)
}

// asCupeld runs what is a cupeld as far as can be seen: it has the lock of the folder, which
// it was given by that path. Its script says a line once it can be told something.
func asCupeld(t *testing.T, state, script string) (pid int, ended chan struct{}) {
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
	cmd := exec.Command(programAs(t, "/bin/bash", "cupeld"), "-c", script, "up", "--state", state)
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
	if _, err := lock.f.WriteAt(fmt.Appendf(nil, "%-*d", pidWidth, cmd.Process.Pid), 0); err != nil {
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
	stopProcess(t, pid)
	if err := stopAll(t.Context(), Options{State: link, Force: true}, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	<-ended
}

// diskOfItsOwn mounts a small disk, to have its state folder on it.
func diskOfItsOwn(t *testing.T) (o Options, at string, run func(name string, args ...string)) {
	t.Helper()
	need.Root(t)
	need.Programs(t, "mkfs.ext4", "mount")
	image, at := filepath.Join(t.TempDir(), "image"), filepath.Dir(folder(t))
	run = func(name string, args ...string) {
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
	return Options{State: filepath.Join(at, "state")}, at, run
}

// upOn is a start in that folder, which is refused.
func upOn(t *testing.T, o Options) error {
	t.Helper()
	o = Options{State: o.State, Installation: upflags.Installation{FirstPort: 8082, CASOwners: "127.0.0.1:0", CASInstances: "127.0.0.1:0", ManagerListen: "127.0.0.1:0", RegistryListen: "127.0.0.1:0"}}
	return Up(t.Context(), o, slog.New(slog.DiscardHandler), nil)
}

// TestStateWhoseDiskFails: of a disk that gives back nothing, everything that runs is ended
// by force all the same. All others say that the disk fails and what to do about that, and
// not that something is damaged.
func TestStateWhoseDiskFails(t *testing.T) {
	o, at, _ := diskOfItsOwn(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(l.path("runtimes"), 0o755), os.WriteFile(l.path(client.EndpointFile), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	lock, err := l.lock(workUp)
	if err != nil {
		t.Fatal(err)
	}
	cupeld := exec.Command(programAs(t, "/bin/bash", "cupeld"), "-c", `trap "" INT TERM; read -r`, "--", l.dir)
	cupeld.ExtraFiles = []*os.File{lock.f}
	if _, err = cupeld.StdinPipe(); err == nil { // stays open
		err = cupeld.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cupeld.Process.Kill() })
	lock.release()
	fails(t, at)

	_, cleanup := Cleanup(t.Context(), o, slog.New(slog.DiscardHandler))
	_, manager := client.ReadEndpoint(o.State)
	for name, err := range map[string]error{
		"down": stopAll(t.Context(), o, slog.New(slog.DiscardHandler)), "cleanup": cleanup, "up": upOn(t, o), "who asks its manager": manager,
		"a database that seems damaged": diskerror.Explain(ioerr(11), o.State, "the state folder"),
	} {
		if p := problem.From(err); err == nil || p.Rule != diskerror.RuleFails || !strings.Contains(p.Mend, "cupel down --force, then umount, fsck, mount") {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}

	var said bytes.Buffer
	o.Force = true
	if err := stopAll(t.Context(), o, slog.New(slog.NewTextHandler(&said, nil))); err != nil {
		t.Errorf("down --force: %v", err)
	}
	if !strings.Contains(said.String(), "then umount it, fsck, mount, and cupel up") {
		t.Errorf("says %q", said.String())
	}
	_ = cupeld.Wait() // by a signal
	if left := l.processes(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// fails has a file system give back nothing any more, as one whose disk is gone.
func fails(t *testing.T, at string) {
	t.Helper()
	const shutdown, flush = 0x8004587d, 1 // FS_IOC_SHUTDOWN with FSSHUTDOWN_FLAGS_LOGFLUSH
	f, err := os.Open(at)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), shutdown, flush)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestReadOnlyState: on a disk that the kernel gave up writing to, what runs can be
// ended, and what needs to write says so and what to do.
func TestReadOnlyState(t *testing.T) {
	o, at, run := diskOfItsOwn(t)
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
		if err := stopAll(t.Context(), o, slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("down, by force: %v: %v", force, err)
		}
	}
	_, err = Cleanup(t.Context(), o, slog.New(slog.DiscardHandler))
	for name, err := range map[string]error{
		"cleanup": err,
		"up":      upOn(t, o),
	} {
		if p := problem.From(err); err == nil || p.Rule != diskerror.RuleReadOnly || !strings.Contains(p.Mend, "umount, fsck, mount") {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A database tells it in a number, and the file system not before it is tried.
	if p := problem.From(diskerror.Explain(ioerr(778), o.State, "the state folder")); p.Rule != diskerror.RuleReadOnly {
		t.Errorf("a database: %v", p)
	}
}

// ioerr is an error as the database's driver returns it.
type ioerr int

func (e ioerr) Error() string { return fmt.Sprintf("disk I/O error (%d)", int(e)) }
func (e ioerr) Code() int     { return int(e) }

// programAs is a copy of a program that looks like another one to whoever reads the list of
// processes.
func programAs(t *testing.T, file, name string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(program, b, 0o700); err != nil {
		t.Fatal(err)
	}
	return program
}
