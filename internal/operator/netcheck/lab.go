package netcheck

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// space is a network namespace without a name. A thread holds it: it vanishes,
// with its end of every link, when it is closed or this process ends.
type space struct {
	calls chan func()
	fd    int
}

func newSpace() (*space, error) {
	s := &space{calls: make(chan func())}
	ready := make(chan error)
	go s.hold(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return s, nil
}

// hold runs the namespace's calls on a thread of its own, until it is closed.
func (s *space) hold(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// Others take the first thread's namespace for the whole process's: it is
		// kept until another one was found.
		defer runtime.UnlockOSThread()
		found := make(chan error)
		go s.hold(found)
		ready <- <-found
		return
	}
	// Never unlocked: the thread ends with this goroutine.
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	ready <- err
	if err != nil {
		return
	}
	for call := range s.calls {
		call()
	}
}

func (s *space) close() {
	close(s.calls)
	_ = unix.Close(s.fd)
}

// do runs f in the namespace: the sockets that it opens are there for good.
func (s *space) do(f func() error) error {
	done := make(chan error, 1)
	s.calls <- func() { done <- f() }
	return <-done
}

// lab is the machine with the two namespaces.
type lab struct {
	Config
	instance, outside *space
	listeners         []net.Listener

	uplink     string     // device whose traffic is tried; empty: this machine has none
	here4      netip.Addr // this machine's address, as users call it
	here6      netip.Addr // the same for IPv6; invalid: it has none
	out4, out6 netip.Addr // of the namespace outside
	port       uint16     // public port that is tried
	ours       bool       // port is the check's own, since no app has one
}

// deviceInside and deviceOutside are this machine's ends of the links.
func deviceInside(id string) string  { return "cki" + id }
func deviceOutside(id string) string { return "cko" + id }

// outsideAddrs are addresses of networks that nobody has: of 198.18.0.0/15, which
// is for benchmarks (RFC 2544), and of a unique local network (RFC 4193).
func outsideAddrs(id string) (netip.Addr, netip.Addr) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	n := h.Sum32()
	v4 := netip.AddrFrom4([4]byte{198, 18 + byte(n>>16&1), byte(n >> 8), byte(n)&0xfc | 2})
	v6 := netip.AddrFrom16([16]byte{0xfd, 0xc0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 15: 2})
	return v4, v6
}

func newLab(ctx context.Context, cfg Config) (*lab, error) {
	Clean(cfg.ID)
	l := &lab{Config: cfg}
	l.out4, l.out6 = outsideAddrs(cfg.ID)
	var err error
	if l.instance, err = newSpace(); err != nil {
		return nil, err
	}
	if l.outside, err = newSpace(); err != nil {
		return l, err
	}
	if err := l.linkInside(); err != nil {
		return l, fmt.Errorf("connect an instance's namespace: %w", err)
	}
	if err := l.linkOutside(); err != nil {
		return l, fmt.Errorf("connect the namespace outside: %w", err)
	}
	if err := l.listen(ctx); err != nil {
		return l, err
	}
	return l, l.program(ctx)
}

func (l *lab) close() {
	for _, ln := range l.listeners {
		_ = ln.Close()
	}
	for _, s := range []*space{l.instance, l.outside} {
		if s != nil {
			s.close()
		}
	}
	// A namespace ends some time after its last holder; its links go at once.
	for _, name := range []string{deviceInside(l.ID), deviceOutside(l.ID)} {
		if link, err := netlink.LinkByName(name); err == nil {
			_ = netlink.LinkDel(link)
		}
	}
	Clean(l.ID)
}

// pair makes a link between this machine and a namespace, where it is eth0.
func pair(name string, s *space) (netlink.Link, error) {
	if old, err := netlink.LinkByName(name); err == nil {
		_ = netlink.LinkDel(old)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(s.fd)})
	if err != nil {
		return nil, err
	}
	return netlink.LinkByName(name)
}

// linkInside connects the instance's namespace as CNI's bridge plugin connects
// an instance's.
func (l *lab) linkInside() error {
	bridge, err := netlink.LinkByName(l.Bridge)
	if err != nil {
		return err
	}
	here, err := pair(deviceInside(l.ID), l.instance)
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetMaster(here, bridge), netlink.LinkSetHairpin(here, true), netlink.LinkSetUp(here)); err != nil {
		return err
	}
	return l.instance.do(func() error {
		eth0, err := up(netip.PrefixFrom(l.Instance, l.Subnet.Bits()))
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: l.Gateway.AsSlice()})
	})
}

// up brings eth0 up with its addresses, which are usable at once.
func up(addrs ...netip.Prefix) (netlink.Link, error) {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return nil, err
	}
	for _, p := range addrs {
		if err := addAddress(eth0, p); err != nil {
			return nil, err
		}
	}
	return eth0, netlink.LinkSetUp(eth0)
}

func addAddress(link netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return netlink.AddrReplace(link, a)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func host(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

// linkOutside puts the other namespace behind the uplink. Where there is none, or
// none that this can be done with, it is a network of its own.
func (l *lab) linkOutside() error {
	link, err := pair(deviceOutside(l.ID), l.outside)
	if err != nil {
		return err
	}
	uplink := l.findUplink()
	if uplink == nil || l.behind(link, uplink) != nil {
		uplink = link
		if err := l.beside(link); err != nil {
			return err
		}
	}
	l.uplink = uplink.Attrs().Name
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}

	// Both sides know the other's hardware address: nobody has to be asked on the
	// real network.
	var peer net.HardwareAddr
	err = l.outside.do(func() error {
		addrs := []netip.Prefix{netip.PrefixFrom(l.out4, 32)}
		if l.here6.IsValid() {
			addrs = append(addrs, netip.PrefixFrom(l.out6, 128))
		}
		eth0, err := up(addrs...)
		if err != nil {
			return err
		}
		peer = eth0.Attrs().HardwareAddr
		return outward(eth0, uplink.Attrs().HardwareAddr, l.here4, l.here6)
	})
	if err != nil {
		return err
	}
	err = neighbour(uplink, l.out4, peer)
	if err == nil && l.here6.IsValid() {
		err = neighbour(uplink, l.out6, peer)
	}
	return err
}

// outward routes everything out of a device, to a hardware address that is known.
func outward(dev netlink.Link, mac net.HardwareAddr, heres ...netip.Addr) error {
	for _, here := range heres {
		if !here.IsValid() {
			continue
		}
		if err := neighbour(dev, here, mac); err != nil {
			return err
		}
		every := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if here.Is6() {
			every = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		route := &netlink.Route{LinkIndex: dev.Attrs().Index, Dst: ipNet(every), Gw: here.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteAdd(route); err != nil {
			return err
		}
	}
	return nil
}

// neighbour routes an address out of a device and says which hardware has it.
func neighbour(dev netlink.Link, a netip.Addr, mac net.HardwareAddr) error {
	err := netlink.RouteReplace(&netlink.Route{LinkIndex: dev.Attrs().Index, Dst: host(a), Scope: netlink.SCOPE_LINK})
	if err != nil {
		return fmt.Errorf("route %s: %w", a, err)
	}
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	return netlink.NeighSet(&netlink.Neigh{
		LinkIndex: dev.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
	})
}

// removeRoutes removes what a check added to this machine's routes.
func removeRoutes(id string) {
	v4, v6 := outsideAddrs(id)
	for family, a := range map[int]netip.Addr{unix.AF_INET: v4, unix.AF_INET6: v6} {
		routes, _ := netlink.RouteListFiltered(family, &netlink.Route{Dst: host(a)}, netlink.RT_FILTER_DST)
		for _, r := range routes {
			_ = netlink.NeighDel(&netlink.Neigh{LinkIndex: r.LinkIndex, Family: family, IP: a.AsSlice(), State: netlink.NUD_PERMANENT})
			_ = netlink.RouteDel(&r)
		}
	}
}

// findUplink returns the Ethernet device of the default route, and sets the
// addresses that this machine has there. Nil if there is none.
func (l *lab) findUplink() netlink.Link {
	routes, err := netlink.RouteList(nil, unix.AF_INET)
	if err != nil {
		return nil
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.IP != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil || len(link.Attrs().HardwareAddr) != 6 || link.Attrs().MasterIndex != 0 {
			continue
		}
		l.here4, l.here6 = address(link, unix.AF_INET), address(link, unix.AF_INET6)
		if l.here4.IsValid() {
			return link
		}
	}
	return nil
}

// address is the device's first address that others can use.
func address(link netlink.Link, family int) netip.Addr {
	addrs, err := netlink.AddrList(link, family)
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if ok && ip.Unmap().IsGlobalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DEPRECATED) == 0 {
			return ip.Unmap()
		}
	}
	return netip.Addr{}
}

// behind makes what comes out of link arrive at uplink. It has uplink's hardware
// address, by which the kernel takes a frame for its own.
func (l *lab) behind(link, uplink netlink.Link) error {
	index := link.Attrs().Index
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	err := errors.Join(netlink.LinkSetHardwareAddr(link, uplink.Attrs().HardwareAddr), netlink.QdiscAdd(ingress))
	if err != nil {
		return err
	}
	redirect := netlink.NewMirredAction(uplink.Attrs().Index)
	redirect.MirredAction = netlink.TCA_INGRESS_REDIR
	err = netlink.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.MakeHandle(0xffff, 0), Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{redirect},
	})
	if err == nil {
		err = divert(l.ID, link.Attrs().Name, uplink.Attrs().Name, l.out4, l.out6)
	}
	if err != nil {
		_ = netlink.QdiscDel(ingress)
	}
	return err
}

// beside gives this machine addresses on link itself.
func (l *lab) beside(link netlink.Link) error {
	l.here4, l.here6 = l.out4.Prev(), l.out6.Prev()
	if err := addAddress(link, netip.PrefixFrom(l.here4, 32)); err != nil {
		return err
	}
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + link.Attrs().Name + "/disable_ipv6")
	if err != nil || strings.TrimSpace(string(off)) != "0" || addAddress(link, netip.PrefixFrom(l.here6, 128)) != nil {
		l.here6 = netip.Addr{} // this machine has no IPv6
	}
	return nil
}
