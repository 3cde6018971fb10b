// Package netlab gives tests network namespaces: machines with links, addresses
// and nothing else. It is for tests only and needs root.
//
// A Space is held by a thread and has no name: it vanishes, with its end of
// every link, when its test or the test's process ends, however that happens.
// Methods are safe for concurrent use; what Do runs is one after the other.
package netlab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Space is a network namespace.
type Space struct {
	calls chan func()
	fd    int
}

// New makes a namespace whose loopback is up.
func New(t testing.TB) *Space {
	t.Helper()
	s := open(t, func() error { return unix.Unshare(unix.CLONE_NEWNET) })

	var err error
	s.Do(func() {
		var lo netlink.Link
		if lo, err = netlink.LinkByName("lo"); err == nil {
			err = netlink.LinkSetUp(lo)
		}
	})

	must(t, err)
	return s
}

// Of is the namespace that a process is in, as it is.
func Of(t testing.TB, pid int) *Space {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	must(t, err)
	defer func() { _ = f.Close() }()
	return open(t, func() error { return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET) })
}

// open starts a thread that enters a namespace.
func open(t testing.TB, enter func() error) *Space {
	t.Helper()
	s := &Space{calls: make(chan func())}
	ready := make(chan error)

	go func() {
		runtime.LockOSThread() // never unlocked: the thread, and the namespace, end with the goroutine
		err := enter()
		if err == nil {
			s.fd, err = unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}

		ready <- err
		if err != nil {
			return
		}

		for call := range s.calls {
			call()
		}
	}()

	must(t, <-ready)

	t.Cleanup(func() {
		close(s.calls)
		_ = unix.Close(s.fd)
	})

	return s
}

// Do runs f in the namespace: sockets that it opens, and processes that it
// starts, are there for good. f must not end its goroutine (t.Fatal).
func (s *Space) Do(f func()) {
	done := make(chan struct{})
	s.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// Link joins the namespace to the caller's by a pair of interfaces, "eth0" in
// the namespace, with addresses there in prefix notation, and name outside.
// It returns the end outside, which is deleted with the test.
func (s *Space) Link(t testing.TB, name string, addrs ...string) netlink.Link {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: name, NetNsID: -1},
		PeerName:      "eth0",
		PeerNamespace: netlink.NsFd(s.fd),
	}))

	host, err := netlink.LinkByName(name)
	must(t, err)
	t.Cleanup(func() { _ = netlink.LinkDel(host) })
	must(t, netlink.LinkSetUp(host))

	s.Do(func() { err = up("eth0", addrs) })
	must(t, err)
	return host
}

// up gives an interface its addresses and brings it up.
func up(name string, addrs []string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}

	for _, a := range addrs {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return err
		}
		if err := AddAddress(link, p); err != nil {
			return err
		}
	}

	return netlink.LinkSetUp(link)
}

// AddAddress gives an interface an address, usable at once: IPv6's without duplicate address
// detection (RFC 4862 section 5.4).
func AddAddress(link netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: IPNet(netip.PrefixFrom(p.Addr(), p.Bits()))}

	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}

	return netlink.AddrAdd(link, a)
}

// Route sends a network's packets via a gateway.
func (s *Space) Route(t testing.TB, dst netip.Prefix, via netip.Addr) {
	t.Helper()
	var err error
	s.Do(func() { err = netlink.RouteAdd(&netlink.Route{Dst: IPNet(dst), Gw: via.AsSlice()}) })

	must(t, err)
}

// AnyAddress lets sockets of the namespace use every address of a network.
func (s *Space) AnyAddress(t testing.TB, p netip.Prefix) {
	t.Helper()
	var err error
	s.Do(func() {
		var lo netlink.Link
		if lo, err = netlink.LinkByName("lo"); err == nil {
			err = netlink.RouteAdd(&netlink.Route{
				LinkIndex: lo.Attrs().Index,
				Dst:       IPNet(p),
				Type:      unix.RTN_LOCAL,
				Table:     unix.RT_TABLE_LOCAL,
				Scope:     unix.RT_SCOPE_HOST,
			})
		}
	})

	must(t, err)
}

// Dial connects over TCP from an address of the namespace; the zero address:
// any.
func (s *Space) Dial(from netip.Addr, to netip.AddrPort) (conn *net.TCPConn, err error) {
	s.Do(func() { conn, err = Dial(from, to) })
	return conn, err
}

// Dial is Space.Dial in the caller's namespace.
func Dial(from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: 3 * time.Second}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}

	// One address, so that the socket is made here and not on another thread.
	c, err := d.Dial("tcp", to.String())
	if err != nil {
		return nil, err
	}

	return c.(*net.TCPConn), nil
}

// IPNet converts a prefix for package netlink.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// must ends a test at an error.
func must(t testing.TB, err error) {
	if err != nil {
		t.Helper()
		t.Fatal(err)
	}
}
