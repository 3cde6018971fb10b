package launcher

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/wire"
)

// pids returns the instance's first process and the app, as the host sees them.
func (s *sandbox) pids() (first, app int) {
	s.t.Helper()
	b, err := exec.Command("runc", "--root", filepath.Join(s.bundle, "runc"), "state", s.id).Output()
	must(s.t, err)
	var state struct {
		PID int `json:"pid"`
	}
	must(s.t, json.Unmarshal(b, &state))
	all, err := filepath.Glob("/proc/[0-9]*/status")
	must(s.t, err)
	for _, file := range all {
		status, _ := os.ReadFile(file)
		if strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", state.PID)) {
			app, err = strconv.Atoi(filepath.Base(filepath.Dir(file)))
			must(s.t, err)
		}
	}
	if app == 0 {
		s.t.Fatalf("process %d has no child", state.PID)
	}
	return state.PID, app
}

// as runs a program as a process of the host with that user and group.
func as(t *testing.T, uid, gid uint32, argv ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: []uint32{gid, 1700}}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestHostsUserReadsNothing: the user of the host who has the app's number gets
// neither its environment nor its memory nor, below its root, its files.
func TestHostsUserReadsNothing(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.cas.reply.Env = []string{"SECRET=hunter2"}
	s.cas.reply.Files = []wire.File{{Path: "/run/cupel/tls/key.pem", Mode: 0o400, Content: []byte("a key\n")}}
	s.command(`trap 'exit 0' TERM; while :; do sleep 0.1; done`)
	wait := s.start()
	s.phase(wire.Running)
	_, app := s.pids()
	proc := fmt.Sprintf("/proc/%d/", app)
	for _, argv := range [][]string{
		{"cat", proc + "environ"}, {"cat", proc + "maps"}, {"head", "-c", "1", proc + "mem"}, {"ls", proc + "root/"},
		{"cat", proc + "root/run/cupel/tls/key.pem"}, {"ls", proc + "cwd/"}, {"readlink", proc + "fd/1"}, {"dd", "if=/dev/null", "of=" + proc + "fd/1"}, {"cat", proc + "auxv"},
		{"readlink", proc + "exe"}, {"cat", proc + "smaps"}, {"ls", proc + "map_files/"},
	} {
		out, err := as(t, 1500, 1600, argv...)
		if err == nil || !strings.Contains(out, "ermission denied") && argv[0] != "readlink" || strings.Contains(out, "hunter2") {
			t.Errorf("%s: %v, %q", argv, err, out)
		}
	}
	// A user namespace of its own makes nobody more.
	if out, err := as(t, 1500, 1600, "unshare", "--user", "--map-root-user", "cat", proc+"environ"); err == nil {
		t.Errorf("from a namespace: %q", out)
	}
	// It isn't that nobody can: the machine's root, which a simulated platform
	// can't keep out, does.
	if b, err := os.ReadFile(proc + "environ"); err != nil || !bytes.Contains(b, []byte("hunter2")) {
		t.Errorf("as root: %v", err)
	}
	s.signal("TERM")
	if code := wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestUserNamespace: ids are what they were, capabilities there are none, and
// no way leads into a further one.
func TestUserNamespace(t *testing.T) {
	for _, user := range []string{"app", "0"} {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			s := newSandbox(t)
			s.img.User = user
			s.addVolume(owners.ReadWrite)
			s.command(`cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; readlink /proc/self/ns/user; grep Cap /proc/self/status
				unshare -U true 2>/dev/null || echo "no user namespace"; unshare -m true 2>/dev/null || echo "no mount namespace"
				unshare -r true 2>/dev/null || echo "no root"; mount -t tmpfs x /tmp 2>/dev/null || echo "no mount"
				stat -c '%u %n' /bin/sh /etc/passwd; touch /home/app/data/mine && stat -c 'mine %u:%g' /home/app/data/mine
				ls -l /dev/pts/ptmx >/dev/null && stat -c 'ptmx %a' /dev/pts/ptmx`)
			s.run(0)
			own, err := os.Readlink("/proc/self/ns/user")
			must(t, err)
			uid := map[string]string{"app": "1500:1600", "0": "0:0"}[user]
			s.wantOut(" 0 0 4294967295", "no user namespace", "no mount namespace", "no root", "no mount",
				"0 /bin/sh", "0 /etc/passwd", "mine "+uid, "ptmx 666", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000")
			if strings.Contains(s.out.String(), own) {
				t.Error("the app is in the host's user namespace")
			}
			if strings.Count(s.out.String(), " 0 0 4294967295") != 2 {
				t.Errorf("the ids are mapped otherwise:\n%s", &s.out)
			}
		})
	}
}

// TestTerminal: an app opens a pseudo terminal, of which it is the owner.
func TestTerminal(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	bin, err := buildStatic("pty", "./testdata/pty")
	must(t, err)
	b, err := os.ReadFile(bin)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(s.rootfs, "bin/pty"), b, 0o755))
	s.cas.reply.Argv = []string{"/bin/pty"}
	s.run(0)
	s.wantOut("terminal of 1500:5, mode 620", "said hello")
}

// TestHostWithoutUserNamespaces: the message names what to raise.
func TestHostWithoutUserNamespaces(t *testing.T) {
	p := noUserNamespace(unix.ENOSPC).Error()
	if !strings.Contains(p, "user.max_user_namespaces") || !strings.Contains(p, "user_namespace") {
		t.Error(p)
	}
}
