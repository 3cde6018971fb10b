package netcheck

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file puts the namespace outside behind the devices that lead to the world.

// linkOutside connects the namespace outside. Where this machine has no device for
// that, or none that it can be done with, it is a network of the check's own.
func (l *lab) linkOutside() error {
	link, err := pair(deviceOutside(l.ID), l.outside)
	if err != nil {
		return err
	}

	l.findRoads()
	for _, r := range []*road{&l.v4, &l.v6} {
		if c := r.down(); c != nil {
			r.astray = c
			r.dev = nil
			r.world = false
		}
	}

	if l.v4.dev == nil || l.behind(link, &l.v4) != nil {
		l.v4.dev = link
		l.v4.own = true
		l.v4.table = unix.RT_TABLE_MAIN
		l.v4.here = l.v4.out.Prev()
		if err := addAddress(link, netip.PrefixFrom(l.v4.here, 32)); err != nil {
			return err
		}
	}

	switch {
	case l.v6.dev != nil && l.behind(link, &l.v6) == nil:
	case l.v6.entry == nil && l.v4.own && hasIPv6(link) && addAddress(link, netip.PrefixFrom(l.v6.out.Prev(), 128)) == nil:
		l.v6.dev = link
		l.v6.own = true
		l.v6.here = l.v6.out.Prev()
	default:
		l.v6.here = netip.Addr{}
	}

	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}

	// All know the others' hardware addresses: nobody has to be asked on the real
	// network.
	var peer net.HardwareAddr
	err = l.outside.do(func() error {
		addrs := []netip.Prefix{netip.PrefixFrom(l.v4.out, 32)}
		if l.v6.here.IsValid() {
			addrs = append(addrs, netip.PrefixFrom(l.v6.out, 128))
		}

		eth0, err := up(addrs...)
		if err != nil {
			return err
		}

		peer = eth0.Attrs().HardwareAddr

		// The world knows no way to an instance's own address.
		nowhere := &netlink.Route{Dst: ipNet(l.Subnet), Type: unix.RTN_UNREACHABLE}
		return errors.Join(netlink.RouteAdd(nowhere), outward(eth0, link.Attrs().HardwareAddr, l.v4.here, l.v6.here))
	})
	if err != nil {
		return err
	}

	for _, r := range []*road{&l.v4, &l.v6} {
		if !r.here.IsValid() {
			continue
		}
		if err := r.lead(link, peer); err != nil {
			return err
		}
	}

	return nil
}

// lead makes this machine send what is for the road's end out of its device, in the
// table whose route leads to the world.
func (r *road) lead(link netlink.Link, peer net.HardwareAddr) error {
	err := netlink.RouteReplace(&netlink.Route{
		LinkIndex: r.dev.Attrs().Index,
		Dst:       hostNet(r.out),
		Scope:     netlink.SCOPE_LINK,
		Table:     r.table,
	})
	if err != nil {
		return fmt.Errorf("route %s: %w", r.out, err)
	}

	if len(r.dev.Attrs().HardwareAddr) > 0 {
		err = neighbour(r.dev, r.out, peer)
	}

	return errors.Join(err, neighbour(link, r.out, peer))
}

// outward routes everything out of a device, to a hardware address that is known.
func outward(dev netlink.Link, mac net.HardwareAddr, heres ...netip.Addr) error {
	for _, here := range heres {
		if !here.IsValid() {
			continue
		}

		near := &netlink.Route{LinkIndex: dev.Attrs().Index, Dst: hostNet(here), Scope: netlink.SCOPE_LINK}
		if err := errors.Join(netlink.RouteReplace(near), neighbour(dev, here, mac)); err != nil {
			return err
		}

		every := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if here.Is6() {
			every = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}

		route := &netlink.Route{
			LinkIndex: dev.Attrs().Index,
			Dst:       ipNet(every),
			Gw:        here.AsSlice(),
			Flags:     int(netlink.FLAG_ONLINK),
		}
		if err := netlink.RouteAdd(route); err != nil {
			return err
		}
	}

	return nil
}

// neighbour says which hardware has an address.
func neighbour(dev netlink.Link, a netip.Addr, mac net.HardwareAddr) error {
	return netlink.NeighSet(&netlink.Neigh{
		LinkIndex:    dev.Attrs().Index,
		Family:       family(a),
		State:        netlink.NUD_PERMANENT,
		IP:           a.AsSlice(),
		HardwareAddr: mac,
	})
}

// removeRoutes removes what a check added to this machine's routes.
func removeRoutes(id string) {
	v4, v6 := outsideAddrs(id)
	for _, a := range []netip.Addr{v4, v6} {
		filter := &netlink.Route{Dst: hostNet(a), Table: unix.RT_TABLE_UNSPEC}
		routes, _ := netlink.RouteListFiltered(family(a), filter, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)

		for _, r := range routes {
			if r.Type != unix.RTN_UNICAST {
				continue
			}

			_ = netlink.NeighDel(&netlink.Neigh{
				LinkIndex: r.LinkIndex,
				Family:    family(a),
				IP:        a.AsSlice(),
				State:     netlink.NUD_PERMANENT,
			})
			_ = netlink.RouteDel(&r)
		}
	}
}

// behind makes what comes out of link arrive at the road's device, and what that one
// sends to the road's end come out at link's other end. The first is tc's ingress qdisc
// with a u32 filter that matches every packet of one protocol and redirects it
// (tc-mirred(8)).
func (l *lab) behind(link netlink.Link, r *road) error {
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_INGRESS,
	}}
	if err := netlink.QdiscAdd(ingress); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}

	protocol := uint16(unix.ETH_P_IP)
	priority := uint16(1)
	if r.out.Is6() {
		protocol = unix.ETH_P_IPV6
		priority = 2
	}

	redirect := netlink.NewMirredAction(r.dev.Attrs().Index)
	redirect.MirredAction = netlink.TCA_INGRESS_REDIR
	filter := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: link.Attrs().Index,
			Parent:    netlink.MakeHandle(0xffff, 0),
			Priority:  priority,
			Protocol:  protocol,
		},
		Actions: []netlink.Action{redirect},
	}
	if err := netlink.FilterAdd(filter); err != nil {
		return err
	}

	err := l.divert(link.Attrs().Name, r)
	if err != nil {
		_ = netlink.FilterDel(filter)
	}
	return err
}

// hasIPv6 says that a device may have IPv6 addresses.
func hasIPv6(link netlink.Link) bool {
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + link.Attrs().Name + "/disable_ipv6")
	return err == nil && strings.TrimSpace(string(off)) == "0"
}
