package daemon

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/need"
)

// TestStrangersCantHoldTheLock: whoever can open a file can lock it, and with it up,
// down and cleanup.
func TestStrangersCantHoldTheLock(t *testing.T) {
	need.Root(t)
	need.Programs(t, "flock")
	dir := folder(t)
	l, err := newLayout(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// As an earlier release left it.
	if err := errors.Join(os.WriteFile(l.lockFile(), nil, 0o644), os.Chmod(l.lockFile(), 0o644)); err != nil {
		t.Fatal(err)
	}
	lock, err := l.lock(workUp)
	if err != nil {
		t.Fatal(err)
	}
	lock.release()

	for _, how := range []string{"--shared", "--exclusive"} {
		hold := exec.Command("flock", "--nonblock", how, l.lockFile(), "true")
		hold.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := hold.CombinedOutput(); err == nil || !strings.Contains(string(out), "ermission denied") {
			t.Errorf("flock %s by another user: %v, %s", how, err, out)
		}
	}
}

// TestFolderOfOthersIsRefused: whoever may write to the state folder, or rename it, is
// root here.
func TestFolderOfOthersIsRefused(t *testing.T) {
	need.Root(t)
	for name, spoil := range map[string]func(parent, dir string) error{
		"somebody else's":        func(_, dir string) error { return os.Chown(dir, 65534, 0) },
		"open to a group":        func(_, dir string) error { return os.Chmod(dir, 0o775) },
		"open to all":            func(_, dir string) error { return os.Chmod(dir, 0o777) },
		"in a folder of all":     func(parent, _ string) error { return os.Chmod(parent, 0o777) },
		"sticky, as /tmp: taken": func(parent, _ string) error { return os.Chmod(parent, 0o777|os.ModeSticky) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			l, err := newLayout(filepath.Join(dir, "state"))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.MkdirAll(l.dir, 0o755), spoil(dir, l.dir)); err != nil {
				t.Fatal(err)
			}
			err = l.checkFolder()
			if strings.HasSuffix(name, "taken") {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if p := problem.From(err); p == nil || p.Rule != "state_owner" || p.Mend == "" {
				t.Errorf("taken: %v", err)
			} else {
				t.Log(p)
			}
		})
	}
}
