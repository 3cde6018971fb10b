package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/testing/need"
)

// TestDownLosesNothing: where what apps need to store their volumes can't be started,
// nothing is stopped, unless nobody writes or it is asked for.
func TestDownLosesNothing(t *testing.T) {
	o := upOptions(t)
	l := served(t, o)
	store, err := managerdb.Open(t.Context(), l.path("manager.db"))
	if err != nil {
		t.Fatal(err)
	}
	app := &manager.App{ID: "app-1", Name: "ledger", Current: &manager.Revision{Number: 1, Writes: []string{"data"}}}
	if _, err := store.Apply(t.Context(), manager.Change{Apps: []*manager.App{app}}); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	runs := l.containerdRuns

	for name, listener := range map[string]string{"the CAS's port": "cas-instances", "the registry's": "registry"} {
		ln, err := net.Listen("tcp", net.JoinHostPort("0.0.0.0", loadPorts(l.path("ports.json")).last[listener]))
		if err != nil {
			t.Fatal(err)
		}
		err = stopAll(t.Context(), o, slog.New(slog.DiscardHandler))
		if p := problem.From(err); p == nil || p.Rule != "down_unsafe" || !strings.Contains(p.Mend, "--force") || !runs() {
			t.Errorf("with %s taken: %v; containerd runs: %v", name, err, runs())
		}
		_ = ln.Close()
	}

	db := l.path("manager.db")
	if err := errors.Join(os.Rename(db, db+".good"), os.WriteFile(db, bytes.Repeat([]byte("no database "), 1000), 0o600)); err != nil {
		t.Fatal(err)
	}
	err = stopAll(t.Context(), o, slog.New(slog.DiscardHandler))
	if p := problem.From(err); p == nil || p.Rule != "down_unsafe" || !runs() {
		t.Errorf("with a damaged database: %v; containerd runs: %v", err, runs())
	}
	if err := os.Rename(db+".good", db); err != nil {
		t.Fatal(err)
	}

	ln, err := net.Listen("tcp", net.JoinHostPort("0.0.0.0", loadPorts(l.path("ports.json")).last["registry"]))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	o.Force = true
	if err := stopAll(t.Context(), o, slog.New(slog.DiscardHandler)); err != nil || runs() {
		t.Errorf("by force: %v; containerd runs: %v", err, runs())
	}
	nothingLeft(t, o)
}

// TestCleanupOfAMountedFolder: a state folder on a file system of its own is emptied,
// and its mount point is somebody else's.
func TestCleanupOfAMountedFolder(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(dir, "ports.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Cleanup(t.Context(), Options{State: dir}, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestDownTellsWhatWasLost: who stops everything hears which app did not store
// what it wrote, and nothing of earlier losses.
func TestDownTellsWhatWasLost(t *testing.T) {
	l := layout{dir: t.TempDir()}
	began := time.Now()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	if err := l.tellLost(t.Context(), began, log); err != nil || out.Len() > 0 {
		t.Fatalf("nothing ever ran: %v, %s", err, &out)
	}

	store, err := managerdb.Open(t.Context(), l.path("manager.db"))
	if err != nil {
		t.Fatal(err)
	}
	var c manager.Change
	for i := range 2500 {
		e := managerapi.Event{Time: began.Add(-time.Hour), App: "old", Reason: managerapi.ReasonNotCommitted}
		if i == 1500 {
			e = managerapi.Event{Time: began.Add(time.Second), App: "shop", Instance: "inst-7", Reason: managerapi.ReasonNotCommitted, Message: "killed before it stored volume pgdata", Warning: true}
		}
		if i > 1500 {
			e = managerapi.Event{Time: began.Add(time.Second), App: "well", Reason: "instance_exited"}
		}
		c.Events = append(c.Events, manager.Event{Event: e})
	}
	if _, err := store.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}

	if err := l.tellLost(t.Context(), began, log); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if !strings.Contains(text, "app=shop") || !strings.Contains(text, "inst-7") || !strings.Contains(text, "pgdata") || strings.Count(text, "\n") != 1 {
		t.Errorf("said:\n%s", text)
	}
}

// TestDownOfNoFolder: a folder that was misspelt, or is another program's, is not told as
// one that was stopped, and nothing is left in it.
func TestDownOfNoFolder(t *testing.T) {
	need.Root(t)
	misspelt, empty, foreign := filepath.Join(t.TempDir(), "misspelt"), t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "notes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for state, why := range map[string]string{
		misspelt: "there is no " + misspelt,
		empty:    "nothing in " + empty + " is Cupel's",
		foreign:  "nothing in " + foreign + " is Cupel's",
	} {
		stdout, stderr, code := cupeld(t, ":", "down", "--state", state)
		if code != 0 || stdout != "nothing to stop: "+why+"\n" || stderr != "" {
			t.Errorf("exit %d: %q, %q", code, stdout, stderr)
		}
		if stdout, _, code := cupeld(t, ":", "down", "--state", state, "-o", "json"); code != 0 || stdout != `{"stopped":""}`+"\n" {
			t.Errorf("exit %d: %s", code, stdout)
		}
	}
	left, err := os.ReadDir(foreign)
	if exists(misspelt) || err != nil || len(left) != 1 {
		t.Errorf("made: %v, %v, %v", exists(misspelt), left, err)
	}
	if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
		t.Errorf("made: %v, %v", left, err)
	}
}

// TestDownOfAMovedFolder: what still runs of a folder that is gone is ended, and told; but
// not under a cupeld, whose apps may have something to store, unless it is asked for.
func TestDownOfAMovedFolder(t *testing.T) {
	o := upOptions(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	moved := o.State + "-moved"
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	start := func() (pid int) {
		t.Helper()
		if _, stderr, code := cupeld(t, ":", upFlags(o)...); code != 0 {
			t.Fatalf("up: exit %d: %s", code, stderr)
		}
		e, err := client.ReadEndpoint(o.State)
		if err != nil {
			t.Fatal(err)
		}
		return e.PID
	}

	pid := start()
	for _, hidden := range []bool{false, true} { // as by a disk that isn't mounted any more
		move(o.State, moved)
		if hidden {
			if err := os.Mkdir(o.State, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, args := range [][]string{{"down"}, {"down", "-o", "json"}, {"cleanup", "--yes"}} {
			_, stderr, code := cupeld(t, ":", append(args, "--state", o.State)...)
			t.Log(stderr)
			for _, want := range []string{
				fmt.Sprintf("%s is gone, and the cupeld that was started there (process %d) still runs", o.State, pid),
				"its folder is " + moved + " now: have it there again (a mount, a link, a move), then run this again; or cupel down --state " + o.State + " --force ends what runs",
			} {
				if code != problem.Conflict.ExitCode() || !strings.Contains(stderr, want) || !l.containerdRuns() {
					t.Errorf("%s: exit %d: %s", args, code, stderr)
				}
			}
		}
		if hidden {
			if err := os.Remove(o.State); err != nil {
				t.Fatal(err)
			}
		}
		move(moved, o.State)
	}
	if stdout, stderr, code := cupeld(t, ":", "down", "--state", o.State); code != 0 || !strings.HasPrefix(stdout, "stopped; ") || stderr != "" {
		t.Errorf("where it was again: exit %d: %s%s", code, stdout, stderr)
	}

	for _, force := range []bool{false, true} {
		pid := start()
		daemons := []string{"containerd"}
		args := []string{"down", "--state", o.State}
		if force {
			daemons = append(daemons, "cupeld")
			args = append(args, "--force")
		} else if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		move(o.State, moved)
		stdout, stderr, code := cupeld(t, ":", args...)
		t.Log(stdout)
		for _, name := range daemons {
			if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "there is no "+o.State+", and what still ran of it was ended: ") || !strings.Contains(stdout, name+" (process ") {
				t.Errorf("%s: exit %d: %s%s", args, code, stdout, stderr)
			}
		}
		nothingLeft(t, o)
		move(moved, o.State)
	}
}

// TestDownWithoutDisks: apps of a dead cupeld are stopped in order also where a link to a
// folder that down needs nothing of leads to a disk that isn't mounted now. It is put aside
// only where it is in the way.
func TestDownWithoutDisks(t *testing.T) {
	for name, aside := range map[string]bool{"runtimes": false, "cni": true, "containerd/run": true} {
		t.Run(name, func(t *testing.T) {
			o := upOptions(t)
			l := served(t, o)
			path := l.path(name)
			moved := filepath.Join(t.TempDir(), "moved")
			if err := errors.Join(os.MkdirAll(path, 0o755), os.Rename(path, moved), os.Symlink("/nonexistent/disk", path)); err != nil {
				t.Fatal(err)
			}

			var log bytes.Buffer
			if err := stopAll(t.Context(), o, slog.New(slog.NewTextHandler(&log, nil))); err != nil || strings.Contains(log.String(), "apps not stopped in order") {
				t.Errorf("%v: %s", err, &log)
			}
			t.Log(log.String())
			said := name + " in the state folder was damaged (it is a link to /nonexistent/disk, and nothing is there): it was put aside as damaged/" + filepath.Base(name)
			_, err := os.Readlink(path)
			if strings.Contains(log.String(), said) != aside || (err != nil) != aside {
				t.Errorf("the link is put aside: %v; said: %s", err != nil, &log)
			}
		})
	}
}
