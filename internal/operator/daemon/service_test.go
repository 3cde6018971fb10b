package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cupel.dev/cupel/internal/trusted/problem"
)

// TestUnit: each installation has a unit of its own, in words that systemd reads as they
// were meant. e2e/boot boots with it.
func TestUnit(t *testing.T) {
	l := layout{dir: "/srv/a b%c", id: "0123abcd"}
	text := string(l.unitText("/opt/cupel/cupeld", []string{"--low-ports=80,443", "--deploy-keys=/etc/k$eys"}))
	for _, want := range []string{
		`ExecStart=/opt/cupel/cupeld up --state "/srv/a b%%c" --wait-clock 15m0s --low-ports=80,443 --deploy-keys=/etc/k$$eys` + "\n",
		`ExecStop=/opt/cupel/cupeld down --state "/srv/a b%%c" --at-shutdown` + "\n",
		"KillMode=process\n", "Type=notify\n", "After=network-online.target", "RestartPreventExitStatus=10\n",
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
		{"an older time", strings.Replace(now, stop, "TimeoutStopSec=900\n", 1), true},
		{"a setting less", strings.Replace(now, stop, "", 1), true},
		{"another patience", strings.Replace(now, "--wait-clock 15m0s", "--wait-clock 5m0s", 1), true},
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
