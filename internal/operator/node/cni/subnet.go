package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// supernets are where free subnets are looked for, /24s of them, in that order.
var supernets = []netip.Prefix{
	netip.MustParsePrefix("10.88.0.0/16"),
	netip.MustParsePrefix("10.188.0.0/16"),
	netip.MustParsePrefix("172.29.0.0/16"),
	netip.MustParsePrefix("192.168.0.0/16"),
}

// minBits and maxBits are the sizes of subnets that can be asked for: of a /28, 12
// addresses are for instances.
const minBits, maxBits = 12, 28

// ParseSubnet reads what a person asks for.
func ParseSubnet(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is4() || p.Masked() != p || p.Bits() < minBits || p.Bits() > maxBits {
		return netip.Prefix{}, problem.New(problem.Invalid, ruleSubnet, "--subnet %q is no such network", text).
			Want("an IPv4 network of /%d to /%d by its first address", minBits, maxBits).Fix("as in --subnet 10.88.7.0/24")
	}

	if !p.Addr().IsPrivate() && !shared.Contains(p.Addr()) {
		return netip.Prefix{}, problem.New(problem.Invalid, ruleSubnet, "--subnet %s is of the public Internet, or has another use", p).
			Want("a private network: of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or %s", shared).Fix("give one of these, as in --subnet 10.88.7.0/24, or leave it out")
	}
	return p, nil
}

// shared is for carriers' inner networks (RFC 6598), and of no use outside.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// keepSubnet returns the subnet that is asked for, or kept, or else a free one,
// and keeps it. One with instances in it stays.
func (n *Network) keepSubnet() (netip.Prefix, error) {
	kept, err := n.keptSubnet()
	if err != nil {
		return kept, err
	}
	inUse, err := n.inUse()
	if err != nil {
		return kept, err
	}

	want := n.cfg.Subnet
	if kept.IsValid() && inUse {
		if want.IsValid() && want != kept {
			return kept, problem.New(problem.Conflict, ruleSubnetInUse, "apps run in %s", kept).
				Fix("cupel down, then cupel up --subnet %s: every app is started anew there", want)
		}
		return kept, n.writeSubnet(kept)
	}

	taken, err := n.findUsed()
	if err != nil {
		return kept, err
	}

	switch {
	case want.IsValid():
		if by := taken.conflict(want); by != "" {
			return kept, subnetTaken(want, by, n.cfg.ID, taken)
		}
	case kept.IsValid() && taken.conflict(kept) == "":
		return kept, n.writeSubnet(kept)
	default:
		if want, err = choose(n.cfg.ID, taken); err != nil {
			return kept, err
		}
	}
	return want, n.writeSubnet(want)
}

// writeSubnet writes the subnet down, if it isn't.
func (n *Network) writeSubnet(p netip.Prefix) error {
	text := []byte(p.String() + "\n")
	if b, err := atomicfile.Read(n.subnetFile()); err == nil && bytes.Equal(b, text) {
		return nil
	}

	if err := atomicfile.Write(n.subnetFile(), text, 0o600); err != nil {
		return fmt.Errorf("keep subnet: %w", err)
	}
	return nil
}

// keptSubnet reads the subnet in the state; zero: there is none. Where the file is
// gone or damaged the bridge tells it, if it is there: then apps may run in it.
func (n *Network) keptSubnet() (netip.Prefix, error) {
	b, err := atomicfile.Read(n.subnetFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return netip.Prefix{}, fmt.Errorf("read subnet: %w", err)
	}

	if p, ok := ParseKept(b); ok {
		return p, nil
	}
	return n.bridgeSubnet()
}

// ParseKept reads the subnet as the state keeps it.
func ParseKept(text []byte) (subnet netip.Prefix, ok bool) {
	p, err := netip.ParsePrefix(strings.TrimSpace(string(text)))
	return p, err == nil && possible(p) && p.Masked() == p
}

func (n *Network) subnetFile() string { return filepath.Join(n.cfg.Dir, "subnet") }

// possible says whether instances can have this network.
func possible(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() >= minBits && p.Bits() <= maxBits
}

// bridgeSubnet is the network that the bridge is the gateway of; zero: of none.
func (n *Network) bridgeSubnet() (netip.Prefix, error) {
	bridge, err := netlink.LinkByName(n.Bridge())
	if err != nil {
		return netip.Prefix{}, nil //nolint:nilerr // there is none
	}

	addrs, err := netlink.AddrList(bridge, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("read the bridge's addresses: %w", err)
	}

	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.IPNet.String())
		if err == nil && possible(p) && p.Masked().Addr().Next() == p.Addr() {
			return p.Masked(), nil
		}
	}
	return netip.Prefix{}, nil
}

// inUse says that instances may be connected: the bridge has ports.
func (n *Network) inUse() (bool, error) {
	bridge, err := netlink.LinkByName(n.Bridge())
	if err != nil {
		return false, nil //nolint:nilerr // there is none
	}

	links, err := netlink.LinkList()
	if err != nil {
		return false, fmt.Errorf("list devices: %w", err)
	}

	return slices.ContainsFunc(links, func(l netlink.Link) bool {
		_, veth := l.(*netlink.Veth)
		return veth && l.Attrs().MasterIndex == bridge.Attrs().Index
	}), nil
}

func subnetTaken(p netip.Prefix, by, id string, u usedNetworks) error {
	err := problem.New(problem.Conflict, ruleSubnetTaken, "%s overlaps %s", p, by).Want("a network that this machine doesn't have")
	if free, cerr := choose(id, u); cerr == nil {
		return err.Fix("choose another, such as --subnet %s, or leave --subnet out", free)
	}
	return err.Fix("choose another")
}

// usedNetwork is one that the machine reaches.
type usedNetwork struct {
	netip.Prefix
	by string // what leads there, for people
}

// usedNetworks is what of the address space this machine uses, but for our own bridge.
type usedNetworks struct {
	own    []usedNetwork // lie on its devices
	routed []usedNetwork // are reached through a gateway
	tunnel []usedNetwork // are reached through a device without an address there, as a VPN's
}

// conflict says what takes p from us; empty: nothing does. What is wider than p
// and reached through a gateway goes on without the few addresses of p.
func (u usedNetworks) conflict(p netip.Prefix) string {
	for _, n := range u.own {
		if n.Overlaps(p) {
			return n.by
		}
	}

	for _, n := range append(u.routed, u.tunnel...) {
		if n.Overlaps(p) && n.Bits() >= p.Bits() {
			return n.by
		}
	}
	return ""
}

// shadows says that p takes addresses from a VPN or the like.
func (u usedNetworks) shadows(p netip.Prefix) bool {
	for _, n := range u.tunnel {
		if n.Overlaps(p) {
			return true
		}
	}
	return false
}

// choose returns the first free /24, counted from one that id picks; one that no
// VPN has, if there is.
func choose(id string, u usedNetworks) (netip.Prefix, error) {
	var start uint32
	for _, c := range id {
		start = start*31 + uint32(c)
	}

	var second netip.Prefix
	for _, super := range supernets {
		for i := range uint32(256) {
			a := super.Addr().As4()
			a[2] = byte(start + i)
			p := netip.PrefixFrom(netip.AddrFrom4(a), 24)

			if u.conflict(p) != "" {
				continue
			}
			if !u.shadows(p) {
				return p, nil
			}
			if !second.IsValid() {
				second = p
			}
		}
	}

	if second.IsValid() {
		return second, nil
	}
	return second, problem.New(problem.Unavailable, ruleNoSubnet, "this machine's own networks take all of %v", supernets).
		Fix("name a private network that nobody has: cupel up --subnet 100.64.7.0/24")
}

// findUsed lists what this machine's addresses and routes take.
func (n *Network) findUsed() (usedNetworks, error) {
	var u usedNetworks

	ours := 0
	if link, err := netlink.LinkByName(n.Bridge()); err == nil {
		ours = link.Attrs().Index
	}

	addrs, err := netlink.AddrList(nil, unix.AF_INET)
	if err != nil {
		return u, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IP, a.Mask); ok && a.LinkIndex != ours {
			u.own = append(u.own, usedNetwork{p, fmt.Sprintf("%s on the device %s", p, deviceName(a.LinkIndex))})
		}
	}

	routes, err := netlink.RouteList(nil, unix.AF_INET)
	if err != nil {
		return u, fmt.Errorf("list routes: %w", err)
	}

	for _, r := range routes {
		if r.Dst == nil || r.LinkIndex == ours && ours != 0 {
			continue
		}

		p, ok := prefixOf(r.Dst.IP, r.Dst.Mask)
		switch {
		case !ok || p.Bits() == 0:
		case r.Gw != nil || r.Via != nil || len(r.MultiPath) > 0 || r.Type != unix.RTN_UNICAST:
			u.routed = append(u.routed, usedNetwork{p, fmt.Sprintf("the route to %s", p)})
		default:
			u.tunnel = append(u.tunnel, usedNetwork{p, fmt.Sprintf("the route to %s through the device %s", p, deviceName(r.LinkIndex))})
		}
	}
	return u, nil
}

func prefixOf(ip net.IP, mask net.IPMask) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(ip)
	ones, _ := mask.Size()
	if !ok || !a.Unmap().Is4() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a.Unmap(), ones).Masked(), true
}

func deviceName(index int) string {
	if link, err := netlink.LinkByIndex(index); err == nil {
		return link.Attrs().Name
	}
	return fmt.Sprintf("number %d", index)
}
