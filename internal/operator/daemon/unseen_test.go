package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/procfs"
)

// obeys is the script of what ends when it is told to.
const obeys = `trap "exit 0" INT; echo; while :; do read -r -t 1; done`

// TestLockRemoved: a cupeld of which the lock's file was removed is found all the same, by
// its group or, where a service manager has put it into another, by its folder. A start is
// refused, and who ends everything tells it to.
func TestLockRemoved(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	down := func(o Options) error { return stopAll(t.Context(), o, log) }
	for name, test := range map[string]struct {
		script  string
		service bool
		o       Options
		end     func(Options) error
	}{
		"down":              {obeys, false, Options{}, down},
		"down of a service": {obeys, true, Options{}, down},
		"cleanup":           {obeys, false, Options{}, func(o Options) error { _, err := Cleanup(t.Context(), o, log); return err }},
		"down --force":      {`trap "" INT; echo; read -r`, false, Options{Force: true, forcedReport: 1}, down},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{State: folder(t)}
			pid, ended := asCupeld(t, o.State, test.script)
			l, err := newLayout(o.State)
			if err != nil {
				t.Fatal(err)
			}
			if !test.service {
				inDaemonGroup(t, l, pid)
			}
			if err := errors.Join(os.WriteFile(l.path("grace"), []byte("1ms\n"), 0o600), os.Remove(l.lockFile())); err != nil {
				t.Fatal(err)
			}
			err = upOn(t, o)
			held, ok := errors.AsType[*lockedError](err)
			if !ok {
				t.Fatalf("up: %v", err)
			}
			p := held.problem()
			if p.Rule != ruleRuns || p.Actual != fmt.Sprintf("cupeld already runs on %s (process %d); only %s was removed", l.dir, pid, l.lockFile()) {
				t.Errorf("up: %v", p)
			}
			t.Log(p)

			test.o.State = o.State
			if err := test.end(test.o); err != nil {
				t.Error(err)
			}
			<-ended
		})
	}
}

// TestFolderAway: while the folder of a cupeld isn't at its name, nothing is started there
// nor ended, but by force. Once it is there again, everything is as it was.
func TestFolderAway(t *testing.T) {
	remount := func(run func(string, ...string), at, _, device string) { run("mount", device, at) }
	for name, test := range map[string]struct {
		away func(run func(string, ...string), at, state string)
		back func(run func(string, ...string), at, state, device string) // nil: it can't be

		says string
	}{
		"unmounted": {
			func(run func(string, ...string), at, _ string) { run("umount", "-l", at) },
			remount,
			"then run this again; or cupel down",
		},
		"unmounted, and another one is there": {
			func(run func(string, ...string), at, state string) {
				run("umount", "-l", at)
				run("mkdir", "-p", state+"/simtee")
			},
			remount,
			"; what is there now is another folder",
		},
		"mounted over": {
			func(run func(string, ...string), _, state string) {
				run("mount", "-t", "tmpfs", "-o", "mode=755", "none", state)
			},
			func(run func(string, ...string), _, state, _ string) { run("umount", state) },
			"an umount of what hides it",
		},
		"moved": {
			func(run func(string, ...string), at, state string) { run("mv", state, at+"/moved") },
			func(run func(string, ...string), at, state, _ string) { run("mv", at+"/moved", state) },
			"/moved now: have it there",
		},
		"removed": {
			func(run func(string, ...string), _, state string) { run("rm", "-r", state) }, nil, "then run this again; or cupel down",
		},
	} {
		for _, force := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, by force: %t", name, force), func(t *testing.T) {
				o, at, run := diskOfItsOwn(t)
				device, err := exec.Command("findmnt", "-n", "-o", "SOURCE", at).Output()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { // for a disk that is unmounted still
					if exec.Command("mountpoint", "-q", at).Run() != nil {
						run("mount", "-t", "tmpfs", "none", at)
					}
				})
				pid, ended := asCupeld(t, o.State, obeys)
				l, err := newLayout(o.State)
				if err != nil {
					t.Fatal(err)
				}
				inDaemonGroup(t, l, pid)
				test.away(run, at, o.State)

				_, cleanup := Cleanup(t.Context(), o, slog.New(slog.DiscardHandler))
				refused := map[string]error{
					"up": upOn(t, o), "down": stopAll(t.Context(), o, slog.New(slog.DiscardHandler)), "cleanup": cleanup,
				}
				_, refused["up --detach"] = Detach(t.Context(), o.State, nil, nil)
				if moved := (Options{State: at + "/moved"}); exists(moved.State) {
					refused["up of the moved one"] = upOn(t, moved)
					refused["down --force of the moved one"] = stopAll(t.Context(), Options{State: moved.State, Force: true}, slog.New(slog.DiscardHandler))
				}
				for who, err := range refused {
					if away, ok := errors.AsType[*awayError](err); ok {
						err = away.problem()
					}
					p := problem.From(err)
					if p.Rule != ruleElsewhere || !strings.Contains(p.Actual, fmt.Sprintf("%s is gone, and the cupeld that was started there (process %d) still runs", o.State, pid)) ||
						!strings.Contains(p.Actual+"; "+p.Mend, test.says) || !strings.Contains(p.Mend, "cupel down --state "+o.State+" --force ends what runs") {
						t.Errorf("%s: %v", who, p)
					}
				}
				t.Log(refused["down"])
				if syscall.Kill(pid, 0) != nil {
					t.Fatal("it was ended")
				}

				o.Force = force || test.back == nil
				if !o.Force {
					test.back(run, at, o.State, strings.TrimSpace(string(device)))
				}
				if err := stopAll(t.Context(), o, slog.New(slog.DiscardHandler)); err != nil {
					t.Error(err)
				}
				<-ended
				if name == "mounted over" && force {
					run("umount", o.State)
				}
			})
		}
	}
}

// TestLockOfARunningInstallationRemoved: the same of one that really runs.
func TestLockOfARunningInstallationRemoved(t *testing.T) {
	o := upOptions(t)
	if _, stderr, code := cupeld(t, ":", upFlags(o)...); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	t.Cleanup(func() {
		if _, stderr, code := cupeld(t, ":", "cleanup", "--yes", "--state", o.State); code != 0 {
			t.Errorf("exit %d: %s", code, stderr)
		}
	})
	l, err := newLayout(o.State)
	if err == nil {
		err = os.Remove(l.lockFile())
	}
	if err != nil {
		t.Fatal(err)
	}
	e, err := client.ReadEndpoint(o.State)
	if err != nil {
		t.Fatal(err)
	}
	_, stderr, code := cupeld(t, ":", upFlags(o)...)
	if code != codeRuns || !strings.Contains(stderr, fmt.Sprintf("already runs on %s (process %d); only %s was removed", o.State, e.PID, l.lockFile())) {
		t.Errorf("up: exit %d: %s", code, stderr)
	}
	if _, stderr, code = cupeld(t, ":", "down", "--state", o.State); code != 0 || stderr != "" {
		t.Errorf("down: exit %d: %s", code, stderr)
	}
	if c, ok := procfs.CommandOf(e.PID); ok && c.Name == "cupeld" {
		t.Error("it runs still")
	}
	nothingLeft(t, o)
}

// inDaemonGroup moves a process to where the daemons of a folder are.
func inDaemonGroup(t *testing.T, l layout, pid int) {
	t.Helper()
	if err := l.joinGroup(pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		groups, err := cgroup.Detect("/sys/fs/cgroup")
		if err == nil {
			err = errors.Join(groups.Kill(l.daemonGroup()), l.removeGroup(context.Background(), groups))
		}
		if err != nil {
			t.Error(err)
		}
	})
}
