package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/api/problem"
)

// TestUnit: each installation has a unit of its own, in words that systemd reads as they
// were meant. e2e/boot boots with it.
func TestUnit(t *testing.T) {
	l := layout{dir: "/srv/a b%c", id: "0123abcd"}
	text := string(l.unitText("/opt/cupel/cupeld", []string{"--low-ports=80,443", "--deploy-keys=/etc/k$eys"}))
	for _, want := range []string{
		`ExecStart=/opt/cupel/cupeld up --state "/srv/a b%%c" --wait-clock 15m0s --low-ports=80,443 --deploy-keys=/etc/k$$eys` + "\n",
		`ExecStop=/opt/cupel/cupeld down --state "/srv/a b%%c" --at-shutdown` + "\n",
		"KillMode=process\n", "Type=notify\n", "After=network-online.target", "RestartPreventExitStatus=10 12\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	if l.unit() != "cupel-0123abcd.service" || (layout{dir: defaultState, id: "1"}).unit() != "cupel.service" {
		t.Errorf("unit %s", l.unit())
	}

	// The flags of up go into the unit, files by their absolute names.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "keys"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := cupeld(t, "cd "+dir, "install-service", "--print", "--state", "here", "--deploy-keys", "keys", "--drain", "1m")
	if code != 0 || !strings.Contains(stdout, " up --state "+dir+"/here ") || !strings.Contains(stdout, "--deploy-keys="+dir+"/keys") ||
		!strings.Contains(stdout, "--drain=1m0s") || strings.Contains(stdout, "--print") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

// TestUnitRefusesLines: a name can't add a line of its own to the unit.
func TestUnitRefusesLines(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a\nExecStartPre=touch")
	stdout, stderr, code := cupeld(t, ":", "install-service", "--print", "--state", dir)
	if code == 0 || stdout != "" || !strings.HasPrefix(stderr, "cupeld: service: ") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

// TestUnitWords reads the words of a unit's line as they were given.
func TestUnitWords(t *testing.T) {
	for _, words := range [][]string{
		{"/opt/cupel/cupeld", "up", "--state", "/srv/a b%c", "--deploy-keys=/etc/k$eys"},
		{"/opt/a\"b\\/cupeld", "", "$$", "%%", "'", "a;b", `c:\`},
	} {
		got, ok := unitWords(unitLine(words))
		if !ok || !slices.Equal(got, words) {
			t.Errorf("%q, written %s, read %q, %v", words, unitLine(words), got, ok)
		}
	}
	if _, ok := unitWords(`a "b`); ok {
		t.Error("an open quote")
	}
}

// TestUnitOfAnEarlierRelease: it is made anew with its own flags, unless a person
// wrote something into it.
func TestUnitOfAnEarlierRelease(t *testing.T) {
	l := layout{dir: "/srv/a b%c", id: "0123abcd"}
	flags := []string{"--log-level", "INFO", "--low-ports=80,443", "--deploy-keys=/etc/k$eys"}
	now := string(l.unitText("/opt/cupel/cupeld", flags))
	stop := fmt.Sprintf("TimeoutStopSec=%d\n", int(unitTimeout.Seconds()))
	for _, tt := range []struct {
		name, text string
		ok         bool
	}{
		{"the same", now, true},
		{"an older time", strings.Replace(now, stop, "TimeoutStopSec=2040\n", 1), true},
		{"older codes", strings.Replace(now, "PreventExitStatus=10 12\n", "PreventExitStatus=10\n", 1), true},
		{"a setting less", strings.Replace(now, stop, "", 1), true},
		{"an older folder", strings.Replace(now, ` /opt/cupel`+"\n", "\n", 1), true},
		{"a person's patience", strings.Replace(now, "--wait-clock 15m0s", "--wait-clock 5m0s", 1), false},
		{"a person's time", strings.Replace(now, stop, "TimeoutStopSec=900\n", 1), false},
		{"a person's limit", strings.Replace(now, "LimitNOFILE=1048576", "LimitNOFILE=65536", 1), false},
		{"a person's pause", strings.Replace(now, "RestartSec=2\n", "RestartSec=60\n", 1), false},
		{"a person's order", strings.Replace(now, "After=", "After=vpn.service ", 1), false},
		{"a person's program", strings.Replace(now, "ExecStart=", "ExecStart=-", 1), false},
		{"a person's way to stop", strings.Replace(now, " --at-shutdown", " --at-shutdown --force", 1), false},
		{"a program that is gone", strings.ReplaceAll(now, "/opt/cupel", "/opt/cupel-1.0"), true},
		{"a setting of a person's", strings.Replace(now, stop, stop+"MemoryMax=1G\n", 1), false},
		{"another folder", strings.Replace(now, "up --state", "up --state /else", 1), false},
		{"no program", unitMark + "[Service]\nType=oneshot\n", false},
	} {
		got, with, ok := l.renewed([]byte(tt.text), "/opt/cupel/cupeld")
		if ok != tt.ok || ok && (string(got) != now || !slices.Equal(with, flags)) {
			t.Errorf("%s: %v, %q\n%s", tt.name, ok, with, got)
		}
	}
	if got := differingLines([]byte(strings.Replace(now, stop, "TimeoutStopSec=900\n", 1)), []byte(now)); !slices.Equal(got, []string{"- TimeoutStopSec=900", "+ " + strings.TrimSpace(stop)}) {
		t.Errorf("differs: %q", got)
	}
}

// TestUnitWithoutKeys: who starts an installation with a list of keys hears that its unit
// has none, and how it gets it.
func TestUnitWithoutKeys(t *testing.T) {
	l := layout{dir: "/srv/a", id: "0123abcd"}
	const again = ": make it anew with cupel install-service --state /srv/a --log-level INFO --drain=5s --deploy-keys /etc/keys"
	for _, tt := range []struct{ has, list, want string }{
		{"", "/etc/keys", "cupel-0123abcd.service starts without --deploy-keys, and is refused then (deploy_keys_missing)" + again},
		{"--deploy-keys=all", "/etc/keys", "cupel-0123abcd.service has --deploy-keys all, so that everybody may deploy once it starts" + again},
		{"--deploy-keys=/etc/others", "/etc/keys", ""},
		{"--deploy-keys /etc/others", "/etc/keys", ""},
		{"--deploy-keys all", "/etc/keys", "cupel-0123abcd.service has --deploy-keys all, so that everybody may deploy once it starts" + again},
		{"", "", ""},
		{"", everybody, ""},
	} {
		flags := slices.Concat([]string{"--log-level", "INFO"}, strings.Fields(tt.has), []string{"--drain=5s"})
		if got := l.unitKeys(l.unitText("/opt/cupel/cupeld", flags), tt.list); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
	if got := l.unitKeys(nil, "/etc/keys"); got != "" {
		t.Errorf("without a unit: %s", got)
	}
	// A person types the command into a shell, which isn't systemd.
	for dir, word := range map[string]string{"/srv/100%state": "/srv/100%state", "/srv/a$b": `/srv/a\$b`, "/srv/a b": `/srv/a\ b`} {
		l.dir = dir
		want := "with cupel install-service --state " + word + " --drain=5s --deploy-keys /etc/k%1\\ \\$x"
		if got := l.unitKeys(l.unitText("/opt/cupel/cupeld", []string{"--drain=5s"}), "/etc/k%1 $x"); !strings.HasSuffix(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestUnitOfAnInstallation: the unit of an installation that is there makes no other one
// where its disk isn't mounted.
func TestUnitOfAnInstallation(t *testing.T) {
	l := layout{dir: folder(t), id: "0123abcd"}
	first := l.unitText("/opt/cupel/cupeld", []string{"--drain=5s"})
	if err := os.MkdirAll(l.path("registry"), 0o755); err != nil {
		t.Fatal(err)
	}
	again := l.unitText("/opt/cupel/cupeld", []string{"--drain=5s"})
	if strings.Contains(string(first), existing) || !strings.Contains(string(again), " "+existing+" --drain=5s\n") {
		t.Errorf("before:\n%s\nafter:\n%s", first, again)
	}
	for _, text := range [][]byte{first, again} {
		if now, flags, ok := l.renewed(text, "/opt/cupel/cupeld"); !ok || string(now) != string(again) || !slices.Equal(flags, []string{"--drain=5s"}) {
			t.Errorf("%v, %q:\n%s", ok, flags, now)
		}
	}

	o := upOptions(t)
	stdout, stderr, code := cupeld(t, ":", "up", existing, "--state", o.State)
	if code == 0 || stdout != "" || !strings.HasPrefix(stderr, "cupeld: state_missing: ") || !strings.Contains(stderr, "mend: ") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
	if _, err := os.Stat(o.State); err == nil {
		t.Error("the folder was made")
	}
	// No clock is waited for by what lies where the disk isn't mounted.
	logs := filepath.Join(o.State, "log", "cupeld.log")
	future := time.Now().Add(time.Hour)
	if err := errors.Join(os.MkdirAll(filepath.Dir(logs), 0o755), os.WriteFile(logs, nil, 0o600), os.Chtimes(logs, future, future)); err != nil {
		t.Fatal(err)
	}
	if _, stderr, _ := cupeld(t, ":", "up", existing, "--wait-clock", "2s", "--state", o.State); !strings.HasPrefix(stderr, "cupeld: state_missing: ") {
		t.Errorf("before the disk is mounted: %s", stderr)
	}
	if err := os.RemoveAll(o.State); err != nil {
		t.Fatal(err)
	}
	_, end := begin(t, o)
	if err := end(errStop); err != nil {
		t.Fatal(err)
	}
	o.Existing = true
	_, end = begin(t, o)
	if err := end(errStop); err != nil {
		t.Errorf("where one is: %v", err)
	}
}

// TestUnitServes: what the unit of an installation runs serves, tells the service
// manager so, and ends with SIGTERM.
func TestUnitServes(t *testing.T) {
	o := upOptions(t)
	if err := os.MkdirAll(filepath.Join(o.State, "registry"), 0o755); err != nil {
		t.Fatal(err)
	}
	unit, stderr, code := cupeld(t, ":", append([]string{"install-service", "--print"}, upFlags(o)[2:]...)...)
	words, ok := unitWords(unitSetting([]byte(unit), "ExecStart"))
	if code != 0 || !ok || !slices.Contains(words, existing) {
		t.Fatalf("exit %d: %s%s", code, unit, stderr)
	}
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()

	var said bytes.Buffer
	cmd := &exec.Cmd{Path: words[0], Args: append([]string{"cupeld"}, words[1:]...), Env: []string{"NOTIFY_SOCKET=" + socket}, Stdout: &said, Stderr: &said}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait(); _ = conn.Close() }()
	b := make([]byte, 100)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "READY=1\n" {
		t.Errorf("it says %q, %v", b[:n], err)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := <-ended; err != nil {
		t.Errorf("%v:\n%s", err, &said)
	}
}

// TestWaitClock waits for a clock that is set meanwhile, and not for ever.
func TestWaitClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		tell := func(line string) { told = append(told, line) }
		if err := waitClock(t.Context(), time.Now(), time.Minute, tell); err != nil || len(told) > 0 {
			t.Errorf("a clock that is right: %v, %v", err, told)
		}
		if err := waitClock(t.Context(), time.Now().Add(30*time.Second), time.Minute, tell); err != nil || len(told) != 1 || !strings.Contains(told[0], "waiting for the clock") {
			t.Errorf("one that gets right: %v, %v", err, told)
		}
		err := waitClock(t.Context(), time.Now().Add(time.Hour), time.Minute, tell)
		if p := problem.From(err); err == nil || p.Rule != "clock_not_set" || !strings.Contains(p.Mend, "timedatectl") {
			t.Errorf("one that doesn't: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := waitClock(ctx, time.Now().Add(time.Hour), time.Minute, tell); err == nil {
			t.Error("it waits on")
		}
	})
}

func TestNotifyReady(t *testing.T) {
	if err := notifyReady(""); err != nil {
		t.Errorf("nobody to tell: %v", err)
	}
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := notifyReady(socket); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "READY=1\n" {
		t.Errorf("%q, %v", b[:n], err)
	}
}

// TestLastSeen is the newest of what was written.
func TestLastSeen(t *testing.T) {
	l, err := newLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	future := time.Now().Add(time.Hour).Truncate(time.Second)
	if err := os.WriteFile(l.path("ports.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := l.lastSeen(); got.After(time.Now()) || got.IsZero() {
		t.Errorf("%v", got)
	}
	if err := os.Chtimes(l.path("ports.json"), future, future); err != nil {
		t.Fatal(err)
	}
	if got := l.lastSeen(); !got.Equal(future) {
		t.Errorf("%v, want %v", got, future)
	}
}
