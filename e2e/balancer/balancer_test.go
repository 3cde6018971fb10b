//go:build e2e

// Package balancer holds the promise that a client stays with its instance,
// seen from other machines, through restarts, and by the app itself.
package balancer

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"cupel.dev/cupel/e2e/harness"
	"cupel.dev/cupel/internal/testing/netlab"
)

const (
	session = "sticky"
	clients = 60
)

// call is what the app asks its own public port with.
const call = `
import socket


def call(host, port):
    context = ssl.create_default_context(cafile=os.path.join(TLS, "ca.pem"))
    with socket.create_connection((host, port), 5) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as tls:
            tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: tls.recv(4096), b"")).decode()


def secret():`

func TestClientsStay(t *testing.T) {
	w := harness.New(t, harness.Config{})
	owner := w.Owner("owner")
	port := harness.FreePort(t)
	w.Git.Push("app", map[string]string{"client-app.py": callingApp(w, port)})
	w.BuildRuntimes("puller", "python")
	owner.VouchAsBefore("puller", "python")
	owner.AttestCAS()
	owner.CreateSession(session, "app")
	owner.Deploy(session, 3, port)

	outside, public := newOutside(t, w)
	at := netip.AddrPortFrom(public, port)
	client := owner.AppClient(session).In(outside)
	ask := func(t *testing.T) map[netip.Addr]string {
		t.Helper()
		out := map[netip.Addr]string{}
		for i := range clients {
			from := netip.AddrFrom4([4]byte{198, 19, 1, byte(i + 1)})
			a, err := client.Get(from, at)
			if err != nil {
				t.Fatalf("from %s: %v", from, err)
			}
			out[from] = a.Instance
		}
		return out
	}
	first := ask(t)
	same := func(t *testing.T) {
		t.Helper()
		for from, instance := range ask(t) {
			if first[from] != instance {
				t.Errorf("%s moved from %s to %s", from, first[from], instance)
			}
		}
	}

	t.Run("spread evenly", func(t *testing.T) {
		count := map[string]int{}
		for _, instance := range first {
			count[instance]++
		}
		for instance, n := range count {
			if len(count) != 3 || n < clients/3-2 || n > clients/3+2 {
				t.Errorf("%s has %d of %d clients: %v", instance, n, clients, count)
			}
		}
	})
	t.Run("reconnect", same)
	t.Run("cupeld killed", func(t *testing.T) {
		w.Kill("cupeld", syscall.SIGKILL)
		same(t) // nobody is there but the kernel
		w.Up(nil, nil)
		w.Eventually(30*time.Second, func() error { return owner.ExpectHealthy(session, 3) })
		same(t)
	})
	t.Run("instances call their own public port", func(t *testing.T) {
		// Whatever this machine has set; package balance tries both.
		hooks, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables")
		t.Logf("bridge-nf-call-iptables %q, %v", hooks, err)
		for i := range 9 {
			from := netip.AddrFrom4([4]byte{198, 19, 1, byte(i + 1)})
			if a, err := client.GetPath(from, at, "/call"); err != nil || !strings.Contains(a.Message, "Hello from inside") {
				t.Errorf("%s: called itself and was answered %q, %v", first[from], a.Message, err)
			}
		}
	})
	t.Run("only clients of a removed instance move", func(t *testing.T) {
		gone := owner.Instances(session)[0]
		owner.MustRun("rm", gone.ID)
		w.Eventually(30*time.Second, func() error { return owner.ExpectHealthy(session, 2) })
		after := ask(t)
		left := map[string]bool{}
		for _, instance := range after {
			left[instance] = true
		}
		for from, instance := range first {
			if left[instance] && after[from] != instance {
				t.Errorf("%s moved from %s, which still runs, to %s", from, instance, after[from])
			}
		}
		if len(left) != 2 {
			t.Errorf("clients are served by %v, want two", left)
		}
	})
}

// callingApp is the example with a path more: /call tells what its own public
// port says, asked from inside.
func callingApp(w *harness.World, port uint16) string {
	app := harness.ExampleApp(w)["client-app.py"]
	for _, change := range [][2]string{
		{"def secret():", strings.TrimPrefix(call, "\n")},
		{`if self.path != "/":`, `if self.path not in ("/", "/call"):`},
		{"answer = facts()\n", fmt.Sprintf("answer = facts()\n        if self.path == \"/call\":\n            answer[\"message\"] = call(\"host.cupel.internal\", %d)\n", port)},
	} {
		app = w.Patch(app, change[0], change[1])
	}
	return app
}

// newOutside makes a machine that reaches this one over a link of its own, and
// may use every address of 198.19.0.0/16 (RFC 2544, for tests). It returns this
// machine's address on the link.
func newOutside(t *testing.T, w *harness.World) (*netlab.Space, netip.Addr) {
	t.Helper()
	here, there := netip.MustParseAddr("198.18.77.1"), netip.MustParseAddr("198.18.77.2")
	space := netlab.New(t)
	link := space.Link(t, "x"+w.ID(), there.String()+"/30")
	if err := netlab.AddAddress(link, netip.PrefixFrom(here, 30)); err != nil {
		t.Fatal(err)
	}
	many := netip.MustParsePrefix("198.19.0.0/16")
	space.AnyAddress(t, many)
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: netlab.IPNet(many), Gw: there.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	return space, here
}
