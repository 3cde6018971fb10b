package netcheck

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lab is the machine with the two namespaces.
type lab struct {
	Config
	instance, outside *space
	listeners         []net.Listener

	v4, v6  road
	port    uint16 // public port that is tried first
	ours    bool   // port is the check's own, since no app has one
	casOurs bool   // the check listens in the CAS's place
	other   uint16 // port of this machine that the check listens on, as any program may
	far     uint16 // port of the namespace outside that no rule can know
}

// deviceInside and deviceOutside are this machine's ends of the links.
func deviceInside(id string) string  { return "cki" + id }
func deviceOutside(id string) string { return "cko" + id }

// outsideAddrs are addresses that stand for the world. Lists of networks that can't be
// anybody's hold neither, since these are real: of AS112's (RFC 7534), which answers
// questions that nobody should ask, but are none of its servers'.
func outsideAddrs(id string) (netip.Addr, netip.Addr) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	n := h.Sum32()
	v4 := netip.AddrFrom4([4]byte{192, 175, 48, 64 + 2*byte(n%95)})
	v6 := netip.AddrFrom16([16]byte{0x26, 0x20, 0x00, 0x4f, 0x80, 8: byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 15: 2})
	return v4, v6
}

// newLab builds all of it. A lab that it returns with an error has to be closed too.
func newLab(ctx context.Context, cfg Config) (*lab, error) {
	Clean(cfg.ID)

	l := &lab{Config: cfg}
	if len(l.AppPorts) == 0 {
		l.AppPorts = []uint16{instancePort}
	}

	l.v4.out, l.v6.out = outsideAddrs(cfg.ID)

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

// close ends all of it. What fails is left to the next check, or vanishes with the process.
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
	err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs:     attrs,
		PeerName:      "eth0",
		PeerNamespace: netlink.NsFd(s.fd),
	})
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

// forgetGateway makes the instance ask for this machine's hardware address again.
func (l *lab) forgetGateway() {
	_ = l.instance.do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.NeighDel(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, Family: unix.AF_INET, IP: l.Gateway.AsSlice()})
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

// addAddress gives a device an address. IPv6's is usable without duplicate address detection
// (RFC 4862 section 5.4).
func addAddress(link netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}

	return netlink.AddrReplace(link, a)
}

// ipNet is a network as netlink takes it.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// hostNet is a single address as a network.
func hostNet(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }
