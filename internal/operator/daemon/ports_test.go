package daemon

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/upflags"
)

// TestTakenPortsAreNamedAtOnce: whoever has to choose other addresses learns of all
// of them, and by which flags, before anything is started.
func TestTakenPortsAreNamedAtOnce(t *testing.T) {
	o := upOptions(t)
	var addrs []string
	for range 4 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		addrs = append(addrs, ln.Addr().String())
	}
	o.ManagerListen, o.CASOwners, o.CASInstances, o.RegistryListen = addrs[0], addrs[1], addrs[2], addrs[3]
	for _, way := range []string{"in the foreground", "detached"} {
		var said string
		if way == "detached" {
			_, stderr, code := cupeld(t, ":", upFlags(o)...)
			if said = stderr; code != problem.Conflict.ExitCode() {
				t.Errorf("%s: exit %d", way, code)
			}
		} else {
			err := Up(t.Context(), o, slog.New(slog.DiscardHandler), nil)
			if p := problem.From(err); err == nil || p.Rule != "port_taken" {
				t.Fatalf("%s: %v", way, err)
			}
			said = err.Error()
		}
		for i, flag := range []string{"--manager-listen", "--cas-owners", "--cas-instances", "--registry-listen"} {
			if !strings.Contains(said, addrs[i]) || !strings.Contains(said, flag+" HOST:PORT") {
				t.Errorf("%s: names not both %s and %s: %s", way, addrs[i], flag, said)
			}
		}
		t.Log(said)
	}
	nothingLeft(t, o)
}

func TestAddressesThatCannotBe(t *testing.T) {
	none := func() bool { return false }
	free := Options{Installation: upflags.Installation{ManagerListen: "127.0.0.1:0", CASOwners: "127.0.0.1:0", CASInstances: "127.0.0.1:0", RegistryListen: "127.0.0.1:0"}}
	p := loadPorts("/nonexistent")
	if err := p.check(t.Context(), free, none); err != nil {
		t.Errorf("free ones: %v", err)
	}

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	waiting := free
	waiting.CASOwners = addr
	asked := 0
	err = p.check(t.Context(), waiting, func() bool { // a CAS that ends gives it up
		if asked++; asked == 2 {
			_ = ln.Close()
		}
		return true
	})
	if err != nil || asked < 2 {
		t.Errorf("an earlier CAS that ends: %v, asked %d times", err, asked)
	}

	twice := free
	twice.CASOwners, twice.CASInstances = addr, addr
	if p := problem.From(p.check(t.Context(), twice, none)); p == nil || p.Rule != "port_taken" || !strings.Contains(p.Actual, "--cas-instances") {
		t.Errorf("one address for two: %v", p)
	}
	elsewhere := free
	elsewhere.CASInstances = "192.0.2.77:1"
	if p := problem.From(p.check(t.Context(), elsewhere, none)); p == nil || p.Rule != "listen" || !strings.Contains(p.Mend, "--cas-instances") {
		t.Errorf("another machine's: %v", p)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.check(ended, twice, func() bool { return true }); err == nil {
		t.Error("it waits on")
	}
}

// TestAddressThatIsGone: an address that nobody gave this time is told as the last start's.
func TestAddressThatIsGone(t *testing.T) {
	l := layout{dir: t.TempDir()}
	if err := os.WriteFile(l.path(keptFile), []byte(`{"manager-listen":"192.0.2.7:5000"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, given := range []map[string]string{nil, {"manager-listen": "192.0.2.7:5000"}} {
		o := Options{Given: given, Installation: upflags.Installation{ManagerListen: "192.0.2.7:5000", CASOwners: "127.0.0.1:0", CASInstances: "127.0.0.1:0", RegistryListen: "127.0.0.1:0"}}
		l.settle(&o)
		_, err := loadPorts(l.path(portsFile)).taken(o)
		p := problem.From(err)
		t.Log(p)
		kept := strings.HasPrefix(p.Actual, "listen for the manager's API, where the last start listened: listen tcp 192.0.2.7:5000: ")
		if p.Rule != "listen" || kept != (given == nil) || !strings.Contains(p.Mend, "--manager-listen") {
			t.Errorf("%v: %v", given, p)
		}
	}
}
