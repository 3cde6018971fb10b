package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/testing/need"
)

// TestAppsOfAFolderThatIsGone: while apps run on and neither their cupeld nor their folder is
// there, nothing is started in its place nor ended, but by force or by who deletes all of it.
// Once it is there again, its apps are adopted.
func TestAppsOfAFolderThatIsGone(t *testing.T) {
	o := upOptions(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	moved := o.State + "-moved"
	shell := func(script string) {
		t.Helper()
		if out, err := exec.Command("sh", "-c", "set -e; cd "+filepath.Dir(o.State)+"; "+script).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
	}
	t.Cleanup(func() { _ = os.RemoveAll(moved) })
	start := func() (app int) {
		t.Helper()
		if _, stderr, code := cupeld(t, ":", upFlags(o)...); code != 0 {
			t.Fatalf("up: exit %d: %s", code, stderr)
		}
		e, err := client.ReadEndpoint(o.State)
		if err == nil {
			err = syscall.Kill(e.PID, syscall.SIGKILL)
		}
		if err != nil {
			t.Fatal(err)
		}
		return asInstance(t, l, "i-1-1")
	}

	app := start()
	for name, test := range map[string]struct{ script, there string }{
		"gone":                 {"", ""},
		"an empty mount point": {"mkdir state", ""},
		"what a check left":    {"mkdir state; touch state/cupeld.lock state/turn.lock", "; what is there now is another folder"},
		"what a build left":    {"mkdir -p state/runtimes state/registry", "; what is there now is another folder"},
		"another installation": {"cp -a state-moved state", "; what is there now is another folder"},
	} {
		shell("mv state state-moved; " + test.script)
		before := entries(t, o.State)
		for _, args := range [][]string{upFlags(o), append([]string{"up"}, upFlags(o)[2:]...), {"check"}, {"down", "-o", "json"}, {"down"}} {
			_, stderr, code := cupeld(t, ":", append(args, "--state", o.State)...)
			actual := fmt.Sprintf("state_elsewhere: %s is gone, and what was started there still runs: instance i-1-1, containerd (process ", o.State)
			mend := "its folder is " + moved + " now: have it there again (a mount, a link, a move), then run this again; or cupel down --state " + o.State + " --force ends what runs as it is: what apps wrote into volumes since they stored them last is lost"
			text := strings.ReplaceAll(stderr, `"actual":"`, "state_elsewhere: ")
			if code != problem.Conflict.ExitCode() || !strings.Contains(text, actual) || !strings.Contains(text, test.there) || !strings.Contains(text, mend) {
				t.Errorf("%s: %s: exit %d: %s", name, args, code, stderr)
			}
			if now := entries(t, o.State); args[0] != "down" && !slices.Equal(before, now) {
				t.Errorf("%s: %s: there was %v, and now %v", name, args, before, now)
			}
			if args[0] == "check" {
				t.Log(stderr)
			}
		}
		_, stderr, code := cupeld(t, ":", append(upFlags(o), "--state", moved)...)
		if code != problem.Conflict.ExitCode() || !strings.Contains(stderr, "state_elsewhere: "+moved+" is the folder that was started as "+o.State+", and what was started there still runs") ||
			!strings.Contains(stderr, "'cupel down --state "+o.State+" --force', and run this again: what apps wrote into volumes since they stored them last is lost") {
			t.Errorf("%s: up by the new name: exit %d: %s", name, code, stderr)
		}
		if syscall.Kill(app, 0) != nil || !l.containerdRuns() {
			t.Fatalf("%s: something was ended", name)
		}
		shell("rm -rf state; mv state-moved state")
	}
	shell("mv state/ports.json state/manager.db .") // a disk that loses files makes no other folder of it
	if away := l.displaced(); away != nil {
		t.Errorf("it is there, and yet: %v", away)
	}
	shell("mv ports.json manager.db state")
	if _, stderr, code := cupeld(t, ":", upFlags(o)...); code != 0 {
		t.Errorf("where it is again: exit %d: %s", code, stderr)
	}
	if _, stderr, code := cupeld(t, ":", "down", "--state", o.State); code != 0 {
		t.Errorf("down: exit %d: %s", code, stderr)
	}

	for _, command := range []string{"down --force", "cleanup --yes"} {
		for _, there := range []string{"", "mkdir state", "mkdir state; touch state/cupeld.lock"} {
			start()
			shell("mv state state-moved; " + there)
			stdout, stderr, code := cupeld(t, ":", append(strings.Fields(command), "--state", o.State)...)
			t.Log(stdout + stderr)
			told := strings.Contains(stdout, ", and what still ran of it was ended: instance i-1-1, containerd (process ") && strings.Contains(stderr, "since they stored their volumes last is lost")
			if code != 0 || strings.HasPrefix(command, "down") && !told {
				t.Errorf("%s, %q: exit %d: %s%s", command, there, code, stdout, stderr)
			}
			nothingLeft(t, o)
			shell("rm -rf state; mv state-moved state")
		}
	}
}

// TestKilledIsGone: who ends everything by force returns when it has ended, also what takes
// its time after a SIGKILL, as what a freezer holds.
func TestKilledIsGone(t *testing.T) {
	need.Root(t)
	l, err := newLayout(folder(t))
	if err != nil {
		t.Fatal(err)
	}
	app := asInstance(t, l, "i-1-1")
	freezer, frozen, thawed := filepath.Join("/sys/fs/cgroup/freezer", string(l.cgroup()), "i-1-1", "freezer.state"), "FROZEN", "THAWED"
	if !exists(freezer) { // of the second version; there a kill is heard
		freezer, frozen, thawed = filepath.Join("/sys/fs/cgroup", string(l.cgroup()), "i-1-1", "cgroup.freeze"), "1", "0"
	}
	if err := os.WriteFile(freezer, []byte(frozen), 0); err != nil {
		t.Fatal(err)
	}
	thaw := func() { _ = os.WriteFile(freezer, []byte(thawed), 0) }
	t.Cleanup(thaw)
	go func() {
		for !killed(app) {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond)
		thaw()
	}()
	s, err := Down(t.Context(), Options{State: l.dir, Force: true}, slog.New(slog.DiscardHandler))
	if err != nil || !slices.Equal(s.Ended, []string{"instance i-1-1"}) {
		t.Errorf("%v, %v", s, err)
	}
	nothingLeft(t, Options{State: l.dir})

	// What is left of a group is no nothing.
	if err := os.MkdirAll(filepath.Dir(freezer), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err = Down(t.Context(), Options{State: l.dir}, slog.New(slog.DiscardHandler))
	if said := stoppedText(l.dir, s); err != nil || said != "there is no "+l.dir+", and what still ran of it was ended: control groups "+string(l.cgroup()) {
		t.Errorf("%s, %v", said, err)
	}
	nothingLeft(t, Options{State: l.dir})
}

// killed reports whether a process has a SIGKILL to hear, or has ended.
func killed(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		pending, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if name == "State" && strings.Contains(value, "Z") || strings.HasSuffix(name, "Pnd") && err == nil && pending&(1<<(syscall.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}

// TestStateBehindALink: what runs of a folder is found by a link to it also while the disk is
// away to which the link, or a folder on the way, leads; and nothing is made in its place.
func TestStateBehindALink(t *testing.T) {
	need.Root(t)
	dir := folder(t)
	l, err := newLayout(dir)
	if err != nil {
		t.Fatal(err)
	}
	links := t.TempDir()
	whole, parent := filepath.Join(links, "state"), filepath.Join(links, "parent")
	if err := errors.Join(os.Symlink(dir, whole), os.Symlink(filepath.Dir(dir), parent)); err != nil {
		t.Fatal(err)
	}
	app := asInstance(t, l, "i-1-1")
	for _, name := range []string{whole, filepath.Join(parent, filepath.Base(dir))} {
		if by, err := newLayout(name); err != nil || by.dir != l.dir || by.id != l.id {
			t.Errorf("%s leads to %v, %v", name, by, err)
		}
		for what, err := range map[string]error{"up": upOn(t, Options{State: name}), "down": stopAll(t.Context(), Options{State: name}, slog.New(slog.DiscardHandler))} {
			if p := problem.From(err); err == nil || p.Rule != ruleElsewhere || !strings.Contains(p.Actual, "still runs: instance i-1-1") {
				t.Errorf("%s %s: %v", what, name, err)
			}
		}
	}
	if syscall.Kill(app, 0) != nil || exists(dir) {
		t.Errorf("ended, or made %s", dir)
	}
	if err := stopAll(t.Context(), Options{State: whole, Force: true}, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	nothingLeft(t, Options{State: whole})
	err = upOn(t, Options{State: whole})
	if p := problem.From(err); err == nil || p.Rule != problem.RuleStateDamaged || !strings.Contains(p.Actual, whole+": it is a link to "+dir+", and nothing is there") || !strings.Contains(p.Mend, "mount what it leads to ("+dir+")") || exists(dir) {
		t.Errorf("up by a link that leads nowhere: %v", err)
	}
	t.Log(err)
}

// TestLockRemovedByALink: a cupeld is found by whatever name it was given its folder, once the
// lock's file is gone: by a link, or below the folder in which it was started.
func TestLockRemovedByALink(t *testing.T) {
	need.Root(t)
	for _, kind := range []string{"a link", "relative"} {
		dir := folder(t)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "state")
		if err := os.Symlink(dir, name); err != nil {
			t.Fatal(err)
		}
		given := name
		if kind == "relative" {
			t.Chdir(filepath.Dir(dir))
			given = filepath.Base(dir)
		}
		pid, _ := asCupeld(t, given, obeys)
		l, err := newLayout(dir)
		if err == nil {
			err = os.Remove(l.lockFile())
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, by := range []string{name, dir} {
			err := upOn(t, Options{State: by})
			held, ok := errors.AsType[*lockedError](err)
			if !ok || held.pid != pid || !held.unlinked {
				t.Errorf("%s: up on %s beside a cupeld that runs there: %v", kind, by, err)
			}
		}
		if err := stopAll(t.Context(), Options{State: dir}, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	}
}

// asInstance runs what is an instance by its control group.
func asInstance(t *testing.T, l layout, id string) (pid int) {
	t.Helper()
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		need.Missing(t, err.Error())
	}
	cmd := exec.Command("sleep", "3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	t.Cleanup(func() {
		if err := clearGroup(context.Background(), groups, l.cgroup()); err != nil {
			t.Error(err)
		}
	})
	for _, group := range []cgroup.Path{l.cgroup(), l.cgroup() + "/" + cgroup.Path(id)} { // the outer one's limits first
		if err := groups.Join(group, cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	return cmd.Process.Pid
}

// entries names what is in a folder.
func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
