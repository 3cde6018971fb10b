package daemon

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// cupeld runs this binary as cupeld below a shell that has run words before.
func cupeld(t *testing.T, words string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", append([]string{"-c", words + `; exec -a cupeld "$0" "$@"`, self}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// upFlags are those of `cupeld up --detach` for these options.
func upFlags(o Options) []string {
	return []string{
		"up", "--detach", "--state", o.State, "--manager-listen", o.ManagerListen, "--registry-listen", o.RegistryListen,
		"--cas-owners", o.CASOwners, "--cas-instances", o.CASInstances, "--cas", o.CAS, "--launcher", o.Launcher,
	}
}

// TestNothingOfTheCallers: started by a shell with a mask of its own, ignored signals,
// another priority and an open lock, the daemons and their files are as always.
func TestNothingOfTheCallers(t *testing.T) {
	o := upOptions(t)
	lock := filepath.Join(t.TempDir(), "lock")
	words := fmt.Sprintf("umask 077; trap '' HUP PIPE; export LD_BIND_NOW=1 TMPDIR=/nonexistent; renice -n 5 $$ >/dev/null; cd /tmp; exec 9>%s; flock 9", lock)
	// A file given by its relative name is still found.
	keys := filepath.Join("/tmp", "cupel-keys-"+filepath.Base(filepath.Dir(o.State)))
	if err := os.WriteFile(keys, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(keys) }()
	if _, stderr, code := cupeld(t, words, append(upFlags(o), "--deploy-keys", filepath.Base(keys))...); code != 0 {
		t.Fatalf("up: exit %d: %s", code, stderr)
	}

	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{".", "log", "manager.json", "simulation-root.pem"} {
		info, err := os.Stat(l.path(dir))
		if err != nil {
			t.Fatal(err)
		}
		if want := os.FileMode(0o044); info.Mode().Perm()&want != want {
			t.Errorf("%s has mode %v", dir, info.Mode())
		}
	}
	var seen []string
	for _, p := range l.processes() {
		seen = append(seen, p.name)
		if status := readProc(t, p.pid, "status"); !strings.Contains(status, "SigIgn:\t0000000000000000") {
			t.Errorf("%s ignores signals:\n%s", p.name, status)
		}
		if stat := strings.Fields(readProc(t, p.pid, "stat")); stat[18] != "0" {
			t.Errorf("%s has nice %s", p.name, stat[18])
		}
		if env := readProc(t, p.pid, "environ"); strings.Contains(env, "LD_BIND_NOW") || strings.Contains(env, "TMPDIR") {
			t.Errorf("%s has the environment %q", p.name, env)
		}
		if group := readProc(t, p.pid, "cgroup"); !strings.Contains(group, ":memory:"+string(l.daemonGroup())+"\n") && !strings.Contains(group, "0::"+string(l.daemonGroup())+"\n") {
			t.Errorf("%s is in the control groups\n%s", p.name, group)
		}
	}
	for _, want := range []string{"cupeld", "cupel-cas", "containerd"} {
		if !slices.Contains(seen, want) {
			t.Errorf("%s isn't among %v", want, seen)
		}
	}
	f, err := os.Open(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Errorf("the caller's lock is held on: %v", err)
	}
}

func readProc(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
