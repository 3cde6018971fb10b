package balance

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/netlab"
)

func TestSpreadsEvenly(t *testing.T) {
	l := newLab(t)
	is := l.instances(3)
	b := open(t)
	apply(t, b, is...)
	cases := []struct {
		name   string
		client func(int) netip.Addr
		to     netip.Addr
	}{
		{"IPv4, translated", client4, public4},
		{"IPv6, proxied", client6, public6},
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			count := map[string]int{}
			for _, name := range l.askAll(t, 300, tt.client, tt.to) {
				count[name]++
			}
			if diff := cmp.Diff(map[string]int{"a": 100, "b": 100, "c": 100}, count); diff != "" {
				t.Errorf("clients per instance (-want +got):\n%s", diff)
			}
		})
	}
}

// A client stays over reconnects, repeated and changed states, without the
// process, and in the next process.
func TestClientStays(t *testing.T) {
	l := newLab(t)
	is := l.instances(4)
	b := open(t)
	apply(t, b, is[:3]...)
	const n = 60
	first4, first6 := l.askAll(t, n, client4, public4), l.askAll(t, n, client6, public6)
	local := askHere(t, "127.0.0.1")
	same := func(t *testing.T, proxied bool) {
		t.Helper()
		if diff := cmp.Diff(first4, l.askAll(t, n, client4, public4), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("IPv4 clients moved:\n%s", diff)
		}
		if !proxied {
			return
		}
		if diff := cmp.Diff(first6, l.askAll(t, n, client6, public6), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("IPv6 clients moved:\n%s", diff)
		}
		if got := askHere(t, "127.0.0.1"); got != local {
			t.Errorf("localhost moved from %s to %s", local, got)
		}
	}
	t.Run("reconnect", func(t *testing.T) { same(t, true) })
	apply(t, b, is[:3]...)
	t.Run("same state again", func(t *testing.T) { same(t, true) })
	apply(t, b, is...)
	t.Run("one instance more", func(t *testing.T) { same(t, true) })
	check(t, b.Close())
	t.Run("no process", func(t *testing.T) { same(t, false) })
	b = open(t)
	t.Run("next process, nothing applied", func(t *testing.T) { same(t, false) })
	apply(t, b, is...)
	t.Run("next process", func(t *testing.T) { same(t, true) })
}

func TestRemovalMovesOnlyItsClients(t *testing.T) {
	l := newLab(t)
	is := l.instances(3)
	b := open(t)
	apply(t, b, is...)
	const n = 150
	for _, family := range []struct {
		name   string
		client func(int) netip.Addr
		to     netip.Addr
	}{{"IPv4", client4, public4}, {"IPv6", client6, public6}} {
		t.Run(family.name, func(t *testing.T) {
			apply(t, b, is...)
			before := l.askAll(t, n, family.client, family.to)
			apply(t, b, is[0], is[2])
			after := l.askAll(t, n, family.client, family.to)
			moved := map[string]int{}
			for c, name := range before {
				if name != "b" && after[c] != name {
					t.Errorf("%s moved from %s to %s", c, name, after[c])
				}
				if name == "b" {
					moved[after[c]]++
				}
			}
			if diff := cmp.Diff(map[string]int{"a": n / 6, "c": n / 6}, moved); diff != "" {
				t.Errorf("where b's clients went (-want +got):\n%s", diff)
			}
			// One that comes back takes no clients from the others.
			apply(t, b, is...)
			if diff := cmp.Diff(after, l.askAll(t, n, family.client, family.to), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("clients moved back:\n%s", diff)
			}
		})
	}
}

// An instance that calls the public port, its own included, is answered, with
// the bridge's netfilter hooks on or off.
func TestHairpin(t *testing.T) {
	l := newLab(t)
	is := l.instances(3)
	b := open(t)
	apply(t, b, is...)
	for _, hooks := range []string{"0", "1"} {
		setSysctl(t, "net/bridge/bridge-nf-call-iptables", hooks)
		for _, to := range []netip.Addr{public4, gateway} {
			t.Run(fmt.Sprintf("bridge-nf-call-iptables=%s/%s", hooks, to), func(t *testing.T) {
				for _, i := range is {
					first := ask(t, i.Space, netip.Addr{}, to)
					if again := ask(t, i.Space, netip.Addr{}, to); again != first {
						t.Errorf("%s was answered by %s, then by %s", i.Instance, first, again)
					}
				}
			})
		}
		t.Run("bridge-nf-call-iptables="+hooks+"/itself", func(t *testing.T) {
			for _, i := range is {
				apply(t, b, i)
				c, err := i.Dial(netip.Addr{}, netip.AddrPortFrom(public4, port))
				check(t, err)
				name, seen, err := greeting(c)
				check(t, err)
				check(t, c.Close())
				if name != i.Instance || seen != gateway {
					t.Errorf("%s was answered by %s, which saw %s; want itself and %s", i.Instance, name, seen, gateway)
				}
			}
			apply(t, b, is...)
		})
	}
}

func TestInstancesReachOutside(t *testing.T) {
	l := newLab(t)
	i := l.instance("a")
	open(t) // before any port is public
	ln := listenIn(t, l.outside, netip.MustParseAddrPort("192.0.2.2:8080"))
	defer func() { _ = ln.Close() }()
	go greet(ln, "server")
	c, err := i.Dial(netip.Addr{}, netip.MustParseAddrPort("192.0.2.2:8080"))
	check(t, err)
	defer func() { _ = c.Close() }()
	if _, seen, err := greeting(c); err != nil || seen != public4 {
		t.Errorf("the server saw %s (%v), want %s", seen, err, public4)
	}
}

// The client's address is what the instance sees; only the own subnet is
// masqueraded.
func TestInstanceSeesClient(t *testing.T) {
	l := newLab(t)
	b := open(t)
	apply(t, b, l.instance("a"))
	c, err := l.outside.Dial(client4(77), netip.AddrPortFrom(public4, port))
	check(t, err)
	defer func() { _ = c.Close() }()
	if _, seen, err := greeting(c); err != nil || seen != client4(77) {
		t.Errorf("the instance saw %s (%v), want %s", seen, err, client4(77))
	}
}

func TestMachineItself(t *testing.T) {
	l := newLab(t)
	b := open(t)
	apply(t, b, l.instances(3)...)
	for _, to := range []string{"127.0.0.1", "127.0.0.2", "::1", "192.0.2.1", "2001:db8::1", "10.88.7.1"} {
		t.Run(to, func(t *testing.T) {
			first := askHere(t, to)
			for range 5 {
				if got := askHere(t, to); got != first {
					t.Errorf("moved from %s to %s", first, got)
				}
			}
		})
	}
}

func TestPortTaken(t *testing.T) {
	l := newLab(t)
	i := l.instance("a")
	b := open(t)
	apply(t, b, i)
	other, err := net.Listen("tcp", "127.0.0.1:9090")
	check(t, err)
	frontends := []manager.Frontend{
		{App: "app", Port: port, Endpoints: []manager.Endpoint{i.Endpoint}},
		{App: "two", Port: 9000},
		{App: "three", Port: 9090},
	}
	err = b.Apply(context.Background(), frontends)
	if p := problem.From(err); p.Kind != problem.Conflict || p.Rule != "port_taken" {
		t.Fatalf("Apply: %v, want port_taken", err)
	} else {
		t.Log(p)
	}
	// Nothing of that state took effect, and what was goes on.
	if c, err := netlab.Dial(netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:9000")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("port 9000: %v %v, want refused", c, err)
	}
	if got := askHere(t, "127.0.0.1"); got != "a" {
		t.Errorf("answered by %q", got)
	}
	check(t, other.Close())
	check(t, b.Apply(context.Background(), frontends))
}

// TestPortsAreHeld: a port of an app is held for as long as it has it, also while
// nothing of the app serves.
func TestPortsAreHeld(t *testing.T) {
	newLab(t)
	b := open(t)
	ctx := context.Background()
	check(t, b.Apply(ctx, []manager.Frontend{{App: "app", Port: 9001}}))
	if ln, err := net.Listen("tcp", ":9001"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("it is not held: %v %v", ln, err)
	}
	// Nothing serves there: a connection is reset.
	wantReset(t, "port 9001", netip.MustParseAddrPort("127.0.0.1:9001"))
	check(t, b.Apply(ctx, nil))
	ln, err := net.Listen("tcp", ":9001")
	if err != nil {
		t.Fatalf("it is still held: %v", err)
	}
	check(t, ln.Close())
}

func TestRefusesBadStates(t *testing.T) {
	ip := netip.MustParseAddr
	one := manager.Endpoint{Instance: "a", IP: ip("10.88.7.11"), Port: 80}
	cases := []struct {
		name string
		in   []manager.Frontend
		rule problem.Rule
	}{
		{"no port", []manager.Frontend{{App: "x"}}, "port"},
		{"port twice", []manager.Frontend{{App: "x", Port: 80}, {App: "y", Port: 80}}, "port_taken"},
		{"instance twice", []manager.Frontend{{App: "x", Port: 80, Endpoints: []manager.Endpoint{one, one}}}, "endpoint"},
		{"no instance", []manager.Frontend{{App: "x", Port: 80, Endpoints: []manager.Endpoint{{IP: one.IP, Port: 80}}}}, "endpoint"},
		{"no endpoint port", []manager.Frontend{{App: "x", Port: 80, Endpoints: []manager.Endpoint{{Instance: "a", IP: one.IP}}}}, "endpoint"},
		{"no address", []manager.Frontend{{App: "x", Port: 80, Endpoints: []manager.Endpoint{{Instance: "a", Port: 80}}}}, "endpoint"},
		{"foreign address", []manager.Frontend{{App: "x", Port: 80, Endpoints: []manager.Endpoint{{Instance: "a", IP: ip("192.0.2.1"), Port: 80}}}}, "endpoint"},
		{"IPv6", []manager.Frontend{{App: "x", Port: 80, Endpoints: []manager.Endpoint{{Instance: "a", IP: ip("::1"), Port: 80}}}}, "endpoint"},
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newFrontends(tt.in, subnet)
			if p := problem.From(err); err == nil || p.Rule != tt.rule {
				t.Errorf("got %v, want rule %s", err, tt.rule)
			}
		})
	}
}

func TestOpenRefusesBadConfig(t *testing.T) {
	for _, cfg := range []Config{
		{Table: "", Subnet: subnet},
		{Table: "Cupel; flush", Subnet: subnet},
		{Table: "ok", Subnet: netip.MustParsePrefix("fd00::/64")},
		{Table: "ok"},
	} {
		if b, err := Open(context.Background(), cfg); err == nil {
			t.Errorf("%+v opened: %v", cfg, b)
		}
	}
}

// Whatever an older version left under our name is replaced; so is a table that
// a firewall's restart has flushed away.
func TestReplacesForeignContent(t *testing.T) {
	l := newLab(t)
	is := l.instances(2)
	nft(t, `table inet cupel_test {
		set v4_8080_x { type ipv4_addr; elements = { 10.1.0.1 } }
		chain svc_8080 { tcp dport 8080 drop; }
		chain prerouting { type filter hook prerouting priority 0; jump svc_8080; }
	}`)
	b := open(t)
	apply(t, b, is...)
	ask(t, l.outside, client4(1), public4)
	nft(t, "flush ruleset")
	apply(t, b, is...)
	ask(t, l.outside, client4(1), public4)
	check(t, b.Remove(context.Background()))
	if out := nft(t, "list tables"); len(out) != 0 {
		t.Errorf("Remove left %q", out)
	}
}

func TestTwoBalancers(t *testing.T) {
	l := newLab(t)
	is := l.instances(2)
	one := open(t)
	two := open(t, func(c *Config) { c.Table = "cupel_other" })
	apply(t, one, is[0])
	check(t, two.Apply(context.Background(), []manager.Frontend{{App: "app", Port: 9000, Endpoints: []manager.Endpoint{is[1].Endpoint}}}))
	err := two.Apply(context.Background(), []manager.Frontend{{App: "app", Port: port, Endpoints: []manager.Endpoint{is[1].Endpoint}}})
	if problem.From(err).Rule != "port_taken" {
		t.Errorf("the other's port: %v, want port_taken", err)
	}
	check(t, one.Remove(context.Background()))
	c, err := l.outside.Dial(client4(1), netip.AddrPortFrom(public4, 9000))
	check(t, err)
	defer func() { _ = c.Close() }()
	if name, _, err := greeting(c); name != "b" {
		t.Errorf("the other one answers %q, %v", name, err)
	}
}

// Flows of an endpoint that left end; others don't notice.
func TestFlowsEndWithTheirEndpoint(t *testing.T) {
	l := newLab(t)
	is := l.instances(2)
	b := open(t)
	for _, path := range []struct {
		name   string
		client func(int) netip.Addr
		to     netip.Addr
	}{{"translated", client4, public4}, {"proxied", client6, public6}} {
		t.Run(path.name, func(t *testing.T) {
			apply(t, b, is...)
			flows := map[string]*net.TCPConn{}
			for i := 0; len(flows) < 2; i++ {
				c, err := l.outside.Dial(path.client(i), netip.AddrPortFrom(path.to, port))
				check(t, err)
				defer func() { _ = c.Close() }()
				name, _, err := greeting(c)
				check(t, err)
				flows[name] = c
			}
			apply(t, b, is[0])
			if err := untilBroken(flows["b"]); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the flow of the removed instance: %v, want a reset", err)
			}
			if err := echo(flows["a"], []byte("x")); err != nil {
				t.Errorf("the flow of the other instance: %v", err)
			}
		})
	}
}

// An instance that leaves answers a request that was under way when its flow had
// been ended already: the kernel takes that for a new connection, from the
// instance to the client. It ends, too.
func TestLateAnswerKeepsNoFlow(t *testing.T) {
	l := newLab(t)
	stays, leaves := l.instance("a"), l.instance("b")
	check(t, leaves.ln.Close())
	ln := listenIn(t, leaves.Space, netip.AddrPortFrom(leaves.IP, leaves.Port))
	defer func() { _ = ln.Close() }()
	ended := make(chan struct{})
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = fmt.Fprintln(c, "b", c.RemoteAddr())
		_, _ = io.ReadFull(c, make([]byte, 1))
		<-ended
		_, _ = c.Write([]byte("x"))
		_, _ = io.Copy(c, c)
	}()
	b := open(t)
	apply(t, b, leaves)
	client := client4(4711)
	c, err := l.outside.Dial(client, netip.AddrPortFrom(public4, port))
	check(t, err)
	defer func() { _ = c.Close() }()
	_, _, err = greeting(c)
	check(t, err)
	_, err = c.Write([]byte("x"))
	check(t, err)
	apply(t, b, stays)
	entries := func() int {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		check(t, err)
		n := 0
		for _, f := range flows {
			if f.Forward.SrcIP.Equal(client.AsSlice()) {
				n++
			}
		}
		return n
	}
	for end := time.Now().Add(5 * time.Second); entries() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the flow was not ended")
		}
	}
	close(ended)
	if err := untilBroken(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the flow of the removed instance: %v, want a reset", err)
	}
}

func untilBroken(c *net.TCPConn) error {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err := echo(c, []byte("x")); err != nil {
			return err
		}
	}
	return nil
}

func echo(c *net.TCPConn, data []byte) error {
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write(data); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, len(data)))
	return err
}

// A proxied connection carries everything, both ways, and each end's "that is
// all" on its own.
func TestProxyHalfClose(t *testing.T) {
	l := newLab(t)
	b := open(t)
	apply(t, b, l.instance("a"))
	c, err := netlab.Dial(netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:8080"))
	check(t, err)
	defer func() { _ = c.Close() }()
	if _, _, err := greeting(c); err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 8<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back (%v), want the %d that were sent", len(got), err, len(sent))
	}
}

func TestProxyIdleLimit(t *testing.T) {
	l := newLab(t)
	b := open(t, func(c *Config) { c.FlowIdle = 50 * time.Millisecond })
	apply(t, b, l.instance("a"))
	c, err := netlab.Dial(netip.Addr{}, netip.MustParseAddrPort("127.0.0.1:8080"))
	check(t, err)
	defer func() { _ = c.Close() }()
	if _, _, err := greeting(c); err != nil {
		t.Fatal(err)
	}
	check(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("an idle flow: %v, want a reset", err)
	}
}

func TestProxyBound(t *testing.T) {
	l := newLab(t)
	b := open(t, func(c *Config) { c.MaxFlows = 1 })
	apply(t, b, l.instance("a"))
	to := netip.MustParseAddrPort("127.0.0.1:8080")
	one, err := netlab.Dial(netip.Addr{}, to)
	check(t, err)
	defer func() { _ = one.Close() }()
	if _, _, err := greeting(one); err != nil {
		t.Fatal(err)
	}
	wantReset(t, "one flow too many", to)
}

// More clients than are remembered: all are served.
func TestFullSets(t *testing.T) {
	l := newLab(t)
	b := open(t, func(c *Config) { c.MaxClients = 3 })
	apply(t, b, l.instances(2)...)
	l.askAll(t, 40, client4, public4)
	l.askAll(t, 40, client6, public6)
}

func TestDeadInstanceRefuses(t *testing.T) {
	l := newLab(t)
	i := l.instance("a")
	b := open(t)
	apply(t, b, i)
	check(t, i.ln.Close())
	if _, err := l.outside.Dial(client4(1), netip.AddrPortFrom(public4, port)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("translated: %v, want refused", err)
	}
	wantReset(t, "proxied", netip.MustParseAddrPort("127.0.0.1:8080"))
}

func TestManyEndpoints(t *testing.T) {
	newLab(t)
	b := open(t)
	var fs []manager.Frontend
	for p := range 4 {
		f := manager.Frontend{App: fmt.Sprint("app", p), Port: uint16(9000 + p)}
		for i := range 240 {
			f.Endpoints = append(f.Endpoints, manager.Endpoint{
				Instance: fmt.Sprint("i", i), IP: netip.AddrFrom4([4]byte{10, 88, 7, byte(i + 2)}), Port: 8080,
			})
		}
		fs = append(fs, f)
	}
	check(t, b.Apply(context.Background(), fs))
	check(t, b.Apply(context.Background(), fs[:1]))
	have, err := b.kernel.read()
	check(t, err)
	if len(have.sets) != 3*240+2 || len(have.chains) != 240+2+4 || !have.serves(b.applied) {
		t.Errorf("%d sets, %d chains remain", len(have.sets), len(have.chains))
	}
}

// States change while clients connect: every client is answered, always by an
// instance that some state of that moment had.
func TestConcurrentChanges(t *testing.T) {
	l := newLab(t)
	is := l.instances(4)
	b := open(t, func(c *Config) { c.DrainAfter = time.Minute })
	apply(t, b, is...)
	stop := make(chan struct{})
	var changers sync.WaitGroup
	for range 3 {
		changers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				f := manager.Frontend{App: "app", Port: port, Endpoints: []manager.Endpoint{is[0].Endpoint}}
				for _, i := range is[1:] {
					if mrand.IntN(2) == 0 {
						f.Endpoints = append(f.Endpoints, i.Endpoint)
					}
				}
				if err := b.Apply(context.Background(), []manager.Frontend{f}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 300 {
		ask(t, l.outside, client4(i%50), public4)
		ask(t, l.outside, client6(i%50), public6)
	}
	close(stop)
	changers.Wait()
}

func TestClosed(t *testing.T) {
	newLab(t)
	b := open(t)
	check(t, b.Close())
	check(t, b.Close())
	for name, err := range map[string]error{
		"Apply": b.Apply(context.Background(), nil),
	} {
		if problem.KindOf(err) != problem.Unavailable {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func TestListening(t *testing.T) {
	table := []byte(`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100 0 0 10 0
   2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 100 0 0 10 0
   garbage
`)
	if diff := cmp.Diff(map[string]bool{"4711": true}, listening(table, 8080)); diff != "" {
		t.Error(diff)
	}
}

func nft(t testing.TB, script string) []byte {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = bytes.NewReader([]byte(script))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	return out
}

// An instance that leaves gets nobody new, keeps the connections that it has, and is
// counted with them until they ended.
func TestLeavingKeepsItsConnections(t *testing.T) {
	l := newLab(t)
	is := l.instances(3)
	b := open(t)
	for _, path := range []struct {
		name   string
		client func(int) netip.Addr
		to     netip.Addr
	}{{"translated", client4, public4}, {"proxied", client6, public6}} {
		t.Run(path.name, func(t *testing.T) {
			apply(t, b, is...)
			flows := map[string]*net.TCPConn{}
			for i := 0; len(flows) < 3; i++ {
				c, err := l.outside.Dial(path.client(i), netip.AddrPortFrom(path.to, port))
				check(t, err)
				defer func() { _ = c.Close() }()
				name, _, err := greeting(c)
				check(t, err)
				if flows[name] != nil {
					_ = c.Close()
					continue
				}
				flows[name] = c
			}
			leaving := manager.Frontend{App: "app", Port: port, Endpoints: []manager.Endpoint{is[0].Endpoint}, Leaving: []manager.Leaving{{Instance: "b", IP: is[1].IP}}}
			check(t, b.Apply(t.Context(), []manager.Frontend{leaving}))

			if err := untilBroken(flows["c"]); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the flow of the instance that is gone: %v, want a reset", err)
			}
			if err := echo(flows["b"], []byte("x")); err != nil {
				t.Errorf("the flow of the instance that leaves, when others were ended: %v", err)
			}
			for i := range 12 {
				if name := ask(t, l.outside, path.client(i), path.to); name != "a" {
					t.Errorf("client %d is led to %s", i, name)
				}
			}
			wantOpen(t, b, is[1].IP, 1)
			check(t, flows["b"].Close())
			wantOpen(t, b, is[1].IP, 0)
		})
	}
}

// The connections of an instance that left for good end.
func TestLeavingEnds(t *testing.T) {
	l := newLab(t)
	is := l.instances(2)
	b := open(t)
	apply(t, b, is[1])
	c, err := l.outside.Dial(client4(1), netip.AddrPortFrom(public4, port))
	check(t, err)
	defer func() { _ = c.Close() }()
	_, _, err = greeting(c)
	check(t, err)
	f := manager.Frontend{App: "app", Port: port, Endpoints: []manager.Endpoint{is[0].Endpoint}, Leaving: []manager.Leaving{{Instance: "b", IP: is[1].IP}}}
	check(t, b.Apply(t.Context(), []manager.Frontend{f}))
	wantOpen(t, b, is[1].IP, 1)
	apply(t, b, is[0])
	if err := untilBroken(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the flow of the instance that left: %v, want a reset", err)
	}
}

// wantOpen waits until an instance that leaves has that many connections.
func wantOpen(t *testing.T, b *Balancer, at netip.Addr, want int) {
	t.Helper()
	var got int
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		open, err := b.Connections(t.Context())
		check(t, err)
		if got = open[at]; got == want {
			return
		}
	}
	t.Errorf("the instance that leaves has %d connections, want %d", got, want)
}
