package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/testing/netlab"
	"cupel.dev/cupel/internal/trusted/wire"
)

func TestElsewhere(t *testing.T) {
	for _, c := range []struct{ at, says, mend string }{
		{"127.0.0.1:8080", "the app listens on 127.0.0.1:8080, not on all addresses", "0.0.0.0"},
		{"[::1]:8080 127.0.0.1:8080 127.0.0.1:9", "the app listens on 127.0.0.1:8080 and [::1]:8080, not on all addresses", "0.0.0.0"},
		{"0.0.0.0:3000", "the app listens on 0.0.0.0:3000, not on port 8080", "--port PUBLIC:3000"},
		{"127.0.0.1:1 0.0.0.0:3000 0.0.0.0:3000", "the app listens on 0.0.0.0:3000 and 127.0.0.1:1, not on port 8080", "--port PUBLIC:3000"},
		{"[::]:8080", "the app listens on [::]:8080 for IPv6 alone", "0.0.0.0"},
		{"0.0.0.0:1 0.0.0.0:2 0.0.0.0:3 0.0.0.0:4 0.0.0.0:5", "0.0.0.0:4 and 1 more, not on port 8080", "--port"},
		{"", "the app listens on no port yet, and should on port 8080", "A deployment gives an app 2 minutes for that and then stops it"},
		{"0.0.0.0:8080", "", ""},                  // it does: another look, and it is healthy
		{"127.0.0.1:8080 10.88.1.2:8080", "", ""}, // the address that is asked
	} {
		var at []netip.AddrPort
		for _, a := range strings.Fields(c.at) {
			at = append(at, netip.MustParseAddrPort(a))
		}
		m := elsewhere(at, 8080)
		if c.says == "" {
			if m != nil {
				t.Errorf("%s: %v", c.at, m.problem())
			}
			continue
		}
		if m == nil || !strings.Contains(m.problem().Actual, c.says) || !strings.Contains(m.problem().Mend, c.mend) {
			t.Errorf("%s: %v, want %q", c.at, m, c.says)
		}
	}
}

func TestParseListening(t *testing.T) {
	const text = "  sl  local_address rem_address   st tx_queue\n" +
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n" +
		"   1: 0100007F:1F91 0100007F:0001 01 00000000:00000000\n" +
		"   2: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0\n" +
		"   3: nonsense:0050 0 0A\n   4: 0100007F 0 0A\n short\n"
	got, err := parseListening(strings.NewReader(text))
	if want := "[127.0.0.1:8080 [::1]:80]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v; want %s", got, err, want)
	}
}

// TestListeningInANamespace: what listens there is seen, and nothing of this machine.
func TestListeningInANamespace(t *testing.T) {
	need.Root(t)
	space := netlab.New(t)
	mine, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	var path, want string
	space.Do(func() {
		path = filepath.Join(t.TempDir(), "ns")
		if err = os.Symlink(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path); err != nil {
			return
		}
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(context.Background(), "tcp4", "127.0.0.1:0"); err == nil {
			want = l.Addr().String()
			t.Cleanup(func() { _ = l.Close() })
			err = shortBacklog(l)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	got, tried, err := listening(path, netip.MustParseAddrPort(want))
	if err != nil || tried != nil || fmt.Sprint(got) != "["+want+"]" {
		t.Errorf("%v, %v, %v; want %s", got, tried, err, want)
	}

	// It listens where it should, and this machine doesn't reach it.
	addr := netip.MustParseAddrPort(want)
	if p := troubleAt(t, path, addr); p == nil || !strings.Contains(p.Actual, "its machine can't reach it") || !strings.Contains(p.Mend, "cupel check") {
		t.Errorf("%v: want that the machine can't reach it", p)
	}

	// It stops accepting: as soon as its backlog is full nobody gets through.
	space.Do(func() {
		for err == nil {
			var c net.Conn
			if c, err = net.DialTimeout("tcp4", want, 200*time.Millisecond); err == nil {
				t.Cleanup(func() { _ = c.Close() })
			}
		}
	})
	if !timedOut(err) {
		t.Fatal(err)
	}
	if p := troubleAt(t, path, addr); p == nil || !strings.Contains(p.Actual, "takes no connection, not from within its container either") || !strings.Contains(p.Mend, "cupel logs") {
		t.Errorf("%v: want that the app doesn't accept", p)
	}
}

// shortBacklog leaves room for few connections that wait to be accepted.
func shortBacklog(l net.Listener) error {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return err
	}
	var listen error
	err = raw.Control(func(fd uintptr) { listen = unix.Listen(int(fd), 1) })
	return errors.Join(err, listen)
}

// troubleAt is what a look finds at an app that isn't healthy, in the namespace at path.
func troubleAt(t *testing.T, path string, addr netip.AddrPort) *problem.Error {
	t.Helper()
	n := &Node{cfg: Config{State: t.TempDir(), Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, watchers: map[chan manager.InstanceEvent]*backlog{}}
	i := &instance{rec: &record{Spec: manager.InstanceSpec{ID: "i-1", Port: addr.Port()}, IP: addr.Addr(), StartedAt: time.Now().Add(-time.Minute)}, health: manager.HealthUnhealthy}
	i.rec.Report.Phase = wire.Running
	if err := os.MkdirAll(n.dir("netns"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, n.dir("netns", "i-1")); err != nil {
		t.Fatal(err)
	}
	n.lookAround(t.Context(), i)
	return i.status().Problem
}

// TestPorts: what ended listens no more, and what can't be read is left where it is.
func TestPorts(t *testing.T) {
	dir := t.TempDir()
	j := journal{filepath.Join(dir, "instances")}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for id, port := range map[ident.AttemptID]uint16{"i-1": 3000, "i-2": 80, "i-3": 3000, "pull": 0, "ended": 9000} {
		r := &record{Spec: manager.InstanceSpec{ID: id, Port: port}}
		if id == "ended" {
			r.Exit = &exit{Code: 1}
		}
		if err := j.save(r, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(j.path("damaged"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Ports(dir); !slices.Equal(got, []uint16{80, 3000}) {
		t.Error(got)
	}
	if _, err := os.Stat(j.path("damaged")); err != nil {
		t.Error(err)
	}
	if got := Ports(filepath.Join(dir, "none")); len(got) != 0 {
		t.Error(got)
	}
}
