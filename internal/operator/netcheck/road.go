package netcheck

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// road is how packets come to this machine from the world and go there, over one
// version of IP.
type road struct {
	out  netip.Addr // of the namespace outside, which stands for the world
	here netip.Addr // this machine's, as users call it; invalid: it has none

	entry   netlink.Link // device that users come in by; nil: none is known
	gateway netip.Addr   // of its default route; invalid: that has none
	world   bool         // this machine has a route to the world
	dev     netlink.Link // that leads to out
	table   int          // of the route to out
	own     bool         // dev is the check's own link
	astray  *cause       // why what is meant for users doesn't get back to them; nil: it does
}

// device is the name of the device that leads to out; empty: there is none.
func (r *road) device() string {
	if r.dev == nil {
		return ""
	}
	return r.dev.Attrs().Name
}

// findRoads asks where this machine leads to the world, before the check has routes of
// its own.
func (l *lab) findRoads() {
	l.findIPv4()
	l.findIPv6()
}

// findIPv4 finds how instances get to the world: as the kernel would route them.
func (l *lab) findIPv4() {
	r := &l.v4
	w := way{from: l.Instance, to: r.out, in: l.Bridge}
	to, err := w.ask()

	d := w.decidedBy()
	if err != nil && d != nil && d.route != nil && d.ending() == "" {
		// Something else is in the way, forwarding that is off for one.
		to = led{device: deviceName(d.route.LinkIndex), table: d.route.Table}
		err = nil
	}

	r.table = unix.RT_TABLE_MAIN
	r.world = err == nil
	r.choose(unix.AF_INET, to.device)

	if r.entry == nil && err == nil {
		if link, err := netlink.LinkByName(to.device); err == nil {
			r.enter(link)
		}
	}

	if r.entry == nil {
		r.enter(local(unix.AF_INET, l.Bridge))
	}

	r.dev = r.entry

	switch {
	case err != nil && d != nil:
		r.astray = l.straying(w, d, "")
	case err != nil || r.entry == nil:
	case to.device == r.entry.Attrs().Name:
		r.table = to.table
	default:
		r.astray = l.straying(w, d, to.device)
		r.table = to.table
		r.dev, _ = netlink.LinkByName(to.device)
	}
}

// findIPv6 finds how this machine, which proxies IPv6, gets to the world.
func (l *lab) findIPv6() {
	r := &l.v6
	r.table = unix.RT_TABLE_MAIN

	r.choose(unix.AF_INET6, "")
	if r.entry == nil && l.v4.entry != nil { // its users are neighbours
		r.enter(l.v4.entry)
		r.dev = r.entry
		return
	}

	if r.entry == nil {
		return
	}

	r.dev = r.entry
	r.world = true

	w := way{from: r.here, to: r.out}
	to, err := w.ask()
	r.choose(unix.AF_INET6, to.device)
	if err == nil && to.device == r.entry.Attrs().Name {
		r.dev = r.entry
		r.table = to.table
	} else {
		r.astray = l.straying(w, w.decidedBy(), to.device)
	}
}

// enter takes a device as the one that users come in by, if it has an address.
func (r *road) enter(link netlink.Link) {
	if link == nil {
		return
	}

	fam := family(r.out)
	if here := address(link, fam); here.IsValid() {
		r.entry = link
		r.here = here
	}
}

// choose takes the device of the best default route of the main table: of several that
// are as good, the one that packets take; else an Ethernet device, since a tunnel is
// seldom what users come by.
func (r *road) choose(fam int, taken string) {
	routes, _ := netlink.RouteList(nil, fam)
	routes = slices.DeleteFunc(routes, func(route netlink.Route) bool { return prefixLen(route) > 0 || route.Type != unix.RTN_UNICAST })
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })

	type candidate struct {
		link    netlink.Link
		gateway netip.Addr
		rank    int
	}

	var all []candidate

	for _, route := range routes {
		hops := route.MultiPath
		if len(hops) == 0 {
			hops = []*netlink.NexthopInfo{{LinkIndex: route.LinkIndex, Gw: route.Gw}}
		}

		for _, hop := range hops {
			link, err := netlink.LinkByIndex(hop.LinkIndex)
			if err != nil || link.Attrs().MasterIndex != 0 || !address(link, fam).IsValid() {
				continue
			}

			gateway, _ := netip.AddrFromSlice(hop.Gw)
			rank := 2
			switch {
			case link.Attrs().Name == taken && route.Priority == routes[0].Priority && len(link.Attrs().HardwareAddr) == 6:
				rank = 0
			case len(link.Attrs().HardwareAddr) == 6:
				rank = 1
			}

			all = append(all, candidate{link, gateway.Unmap(), rank})
		}
	}

	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(a.rank, b.rank) })
	if len(all) > 0 {
		r.enter(all[0].link)
		r.gateway = all[0].gateway
	}
}

// local is a device with a network of this machine's, a real one before one that a
// program made; nil: there is none.
func local(fam int, but string) netlink.Link {
	links, _ := netlink.LinkList()
	links = slices.DeleteFunc(links, func(link netlink.Link) bool {
		a := link.Attrs()
		return a.Name == but || len(a.HardwareAddr) != 6 || a.MasterIndex != 0 || !address(link, fam).IsValid()
	})

	if len(links) == 0 {
		return nil
	}

	slices.SortStableFunc(links, func(a, b netlink.Link) int {
		return cmp.Or(cmp.Compare(unix.IFF_UP-isUp(a), unix.IFF_UP-isUp(b)), cmp.Compare(madeUp(a), madeUp(b)))
	})
	return links[0]
}

// isUp is 0 of a device that is down.
func isUp(link netlink.Link) uint32 { return link.Attrs().RawFlags & unix.IFF_UP }

// down says that the device that users come in by is down. Nil: it isn't.
func (r *road) down() *cause {
	if r.entry == nil || isUp(r.entry) != 0 {
		return nil
	}

	name := r.entry.Attrs().Name
	return &cause{
		text: name + ", by which this machine and its users reach each other, is down",
		mend: []string{"ip link set " + name + " up"},
	}
}

// madeUp ranks devices: real ones before those of a program.
func madeUp(link netlink.Link) int {
	switch link.Type() {
	case "device":
		return 0
	case "bridge", "dummy", "tun":
		return 2
	}
	return 1
}

// address is the device's first address that others can use.
func address(link netlink.Link, fam int) netip.Addr {
	addrs, err := netlink.AddrList(link, fam)
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

// straying says what leads away what is meant for users, and how it gets back to them.
func (l *lab) straying(w way, d *decider, device string) *cause {
	r := &l.v6
	who := "this machine"
	whose := netip.PrefixFrom(l.v6.here, 128)
	ip := "ip -6"
	if w.to.Is4() {
		r = &l.v4
		who = "an instance"
		whose = l.Subnet
		ip = "ip"
	}

	c := &cause{text: fmt.Sprintf("what %s sends to the world, answers to users too, goes nowhere", who)}
	if device != "" {
		c.text = fmt.Sprintf("what %s sends to the world, answers to users too, goes out of %s, but users come in by %s", who, device, r.device())
	}

	if d == nil {
		c.text += ": no ip rule leads to a route"
		c.mend = []string{fmt.Sprintf("%s rule add from %s lookup main priority 32766", ip, whose)}
		return c
	}

	c.text += ": " + d.String()

	main := netlink.NewRule()
	main.Table = unix.RT_TABLE_MAIN
	usual := w.routeIn(*main)

	switch {
	case r.entry == nil:
		c.mend = []string{fmt.Sprintf("%s rule add from %s lookup main priority %d", ip, whose, d.ahead()), ip + " route add default via GATEWAY"}
	case usual != nil && usual.LinkIndex == r.entry.Attrs().Index && d.rule.Table != unix.RT_TABLE_MAIN:
		c.mend = []string{fmt.Sprintf("%s rule add from %s lookup main priority %d", ip, whose, d.ahead())}
	default:
		// The main table itself leads astray: its networks hold, its default doesn't.
		table := freeTable(family(w.to))
		via := ""
		if r.gateway.IsValid() {
			via = "via " + r.gateway.String() + " "
		}

		c.mend = []string{
			fmt.Sprintf("%s route add default %sdev %s table %d", ip, via, r.entry.Attrs().Name, table),
			fmt.Sprintf("%s rule add from %s lookup %d priority %d", ip, whose, table, d.ahead()),
			fmt.Sprintf("%s rule add from %s lookup main suppress_prefixlength 1 priority %d", ip, whose, max(d.ahead()-1, 0)),
		}
	}

	return c
}

// freeTable is a number of a table of routes that nobody uses.
func freeTable(fam int) int {
	for table := 100; ; table++ {
		routes, _ := netlink.RouteListFiltered(fam, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		if len(routes) == 0 {
			return table
		}
	}
}
