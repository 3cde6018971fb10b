package balance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/testing/netlab"
)

// The tests need a machine of their own to program. The test binary runs itself
// again in a new network namespace, which is the machine; instances and clients
// are further namespaces, each held by a thread. All of them are nameless and
// vanish with the process, however it ends.

const inLab = "CUPEL_BALANCE_LAB"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(inLab) != "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // Pdeathsig is sent when the thread that forked ends
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inLab+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "new network namespace:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

var (
	subnet  = netip.MustParsePrefix("10.88.7.0/24")
	gateway = netip.MustParseAddr("10.88.7.1")
	public4 = netip.MustParseAddr("192.0.2.1")
	public6 = netip.MustParseAddr("2001:db8::1")
)

const port = 8080

// lab is a machine with a bridge for instances and a link to the outside.
type lab struct {
	t       testing.TB
	bridge  *netlink.Bridge
	outside *netlab.Space
	hosts   int
}

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Getenv(inLab) == "" {
		need.Missing(t, "root: it programs nftables in network namespaces")
	}
	for name, value := range map[string]string{
		"net/ipv4/ip_forward":                  "1",
		"net/ipv6/conf/all/accept_dad":         "0",
		"net/ipv6/conf/default/accept_dad":     "0",
		"net/ipv4/conf/all/rp_filter":          "0",
		"net/ipv4/conf/default/rp_filter":      "0",
		"net/bridge/bridge-nf-call-iptables":   "0",
		"net/netfilter/nf_conntrack_tcp_loose": "1",
	} {
		setSysctl(t, name, value)
	}
	l := &lab{t: t}
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	check(t, netlink.LinkSetUp(lo))
	l.bridge = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cpl0"}}
	check(t, netlink.LinkAdd(l.bridge))
	t.Cleanup(func() { check(t, netlink.LinkDel(l.bridge)) })
	check(t, netlab.AddAddress(l.bridge, netip.PrefixFrom(gateway, subnet.Bits())))
	check(t, netlink.LinkSetUp(l.bridge))

	// Clients may use any address of 10.1.0.0/16 and 2001:db8:1::/64.
	l.outside = netlab.New(t)
	host := l.outside.Link(t, "out0", "192.0.2.2/24", "2001:db8::2/64")
	check(t, netlab.AddAddress(host, netip.PrefixFrom(public4, 24)))
	check(t, netlab.AddAddress(host, netip.PrefixFrom(public6, 64)))
	for dst, via := range map[string]string{"10.1.0.0/16": "192.0.2.2", "2001:db8:1::/64": "2001:db8::2"} {
		net, gw := netip.MustParsePrefix(dst), netip.MustParseAddr(via)
		check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: host.Attrs().Index, Dst: netlab.IPNet(net), Gw: gw.AsSlice()}))
		l.outside.AnyAddress(t, net)
	}
	l.outside.Do(func() { setSysctl(t, "net/ipv6/ip_nonlocal_bind", "1") })
	l.outside.Route(t, subnet, public4)
	return l
}

// instance is a server in a namespace of its own on the bridge. It greets with
// its name and the address that it sees, and returns what it is sent.
type instance struct {
	*netlab.Space
	manager.Endpoint
	ln net.Listener
}

func (l *lab) instance(name string) *instance {
	t := l.t
	t.Helper()
	l.hosts++
	addr := netip.AddrFrom4([4]byte{10, 88, 7, byte(10 + l.hosts)})
	s := netlab.New(t)
	host := s.Link(t, "i"+name, netip.PrefixFrom(addr, subnet.Bits()).String())
	check(t, netlink.LinkSetMaster(host, l.bridge))
	check(t, netlink.LinkSetHairpin(host, true))
	i := &instance{Space: s, Endpoint: manager.Endpoint{Instance: name, IP: addr, Port: port}}
	s.Route(t, netip.MustParsePrefix("0.0.0.0/0"), gateway)
	i.ln = listenIn(t, s, netip.AddrPortFrom(addr, port))
	t.Cleanup(func() { _ = i.ln.Close() })
	go greet(i.ln, name)
	return i
}

// listenIn listens in a namespace.
func listenIn(t testing.TB, s *netlab.Space, at netip.AddrPort) (ln net.Listener) {
	t.Helper()
	var err error
	s.Do(func() { ln, err = net.Listen("tcp", at.String()) })
	check(t, err)
	return ln
}

func (l *lab) instances(n int) []*instance {
	var out []*instance
	for i := range n {
		out = append(out, l.instance(string(rune('a'+i))))
	}
	return out
}

func greet(ln net.Listener, name string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			_, _ = fmt.Fprintf(c, "%s %s\n", name, c.RemoteAddr())
			_, _ = io.Copy(c, c)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
	}
}

// greeting reads which instance answers and whom it sees.
func greeting(c *net.TCPConn) (name string, seen netip.Addr, err error) {
	check(nil, c.SetReadDeadline(time.Now().Add(3*time.Second)))
	line, err := bufio.NewReaderSize(c, 16).ReadString('\n')
	if err != nil {
		return "", netip.Addr{}, err
	}
	check(nil, c.SetReadDeadline(time.Time{}))
	name, addr, _ := strings.Cut(strings.TrimSpace(line), " ")
	ap, err := netip.ParseAddrPort(addr)
	return name, ap.Addr().Unmap(), err
}

// ask returns the instance that answers from an address to a public address.
func ask(t testing.TB, s *netlab.Space, from netip.Addr, to netip.Addr) string {
	t.Helper()
	c, err := s.Dial(from, netip.AddrPortFrom(to, port))
	if err != nil {
		t.Fatalf("from %s to %s: %v", from, to, err)
	}
	defer func() { _ = c.Close() }()
	name, _, err := greeting(c)
	if err != nil {
		t.Fatalf("from %s to %s: %v", from, to, err)
	}
	return name
}

// askHere asks from the machine itself.
func askHere(t testing.TB, to string) string {
	t.Helper()
	c, err := netlab.Dial(netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr(to), port))
	if err != nil {
		t.Fatalf("to %s: %v", to, err)
	}
	defer func() { _ = c.Close() }()
	name, _, err := greeting(c)
	if err != nil {
		t.Fatalf("to %s: %v", to, err)
	}
	return name
}

// askAll asks from n addresses and returns who answered each.
func (l *lab) askAll(t testing.TB, n int, client func(int) netip.Addr, to netip.Addr) map[netip.Addr]string {
	t.Helper()
	out := make(map[netip.Addr]string, n)
	for i := range n {
		out[client(i)] = ask(t, l.outside, client(i), to)
	}
	return out
}

func client4(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) }

func client6(i int) netip.Addr {
	a := netip.MustParseAddr("2001:db8:1::").As16()
	a[14], a[15] = byte(i>>8), byte(i)
	return netip.AddrFrom16(a)
}

func open(t testing.TB, change ...func(*Config)) *Balancer {
	t.Helper()
	cfg := Config{Table: "cupel_test", Subnet: subnet, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), DrainAfter: 20 * time.Millisecond}
	for _, f := range change {
		f(&cfg)
	}
	b, err := Open(context.Background(), cfg)
	check(t, err)
	t.Cleanup(func() { check(t, b.Remove(context.Background())) })
	return b
}

func apply(t testing.TB, b *Balancer, instances ...*instance) {
	t.Helper()
	f := manager.Frontend{App: "app", Port: port}
	for _, i := range instances {
		f.Endpoints = append(f.Endpoints, i.Endpoint)
	}
	check(t, b.Apply(context.Background(), []manager.Frontend{f}))
}

func setSysctl(t testing.TB, name, value string) {
	t.Helper()
	check(t, os.WriteFile("/proc/sys/"+name, []byte(value), 0o644))
}

func check(t testing.TB, err error) {
	if err == nil {
		return
	}
	if t == nil {
		panic(err)
	}
	t.Helper()
	t.Error(err)
	runtime.Goexit()
}

// wantReset dials an address of this machine and wants the connection reset
// before anybody greets.
func wantReset(t *testing.T, what string, to netip.AddrPort) {
	t.Helper()
	c, err := netlab.Dial(netip.Addr{}, to)
	if err == nil {
		_, _, err = greeting(c)
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v, want a reset", what, err)
	}
}
