package netcheck

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file asks the kernel where a packet goes, and names the rule or route that
// leads it there.

// way is a packet as the kernel's routing judges it.
type way struct {
	from, to netip.Addr
	in       string // device that it arrives by; empty: this machine itself sends it
}

// led is where the kernel sends a packet.
type led struct {
	device string
	table  int // that holds the route
}

// ask has the kernel decide. Its error is the kernel's refusal.
func (w way) ask() (led, error) {
	routes, err := netlink.RouteGetWithOptions(w.to.AsSlice(), &netlink.RouteGetOptions{Iif: w.in, SrcAddr: w.from.AsSlice()})
	if err != nil {
		return led{}, err
	}

	if len(routes) == 0 {
		return led{}, unix.ENETUNREACH
	}

	return led{device: deviceName(routes[0].LinkIndex), table: routes[0].Table}, nil
}

// device is the device that the kernel sends it out of; empty: none.
func (w way) device() string {
	to, _ := w.ask()
	return to.device
}

// deviceName is the name of the device with an index; empty: there is none.
func deviceName(index int) string {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return ""
	}

	return link.Attrs().Name
}

// decider is what decides about a packet: a rule, and the route of its table.
type decider struct {
	rule  netlink.Rule
	route *netlink.Route // nil: the rule itself ends the packet
	ended error          // the kernel's refusal; nil: it has none
}

// decidedBy follows the rules as the kernel does, in the order of their priorities
// (ip-rule(8)). Nil: no rule leads anywhere, or the rules can't be read.
func (w way) decidedBy() *decider {
	_, ended := w.ask()

	rules, _ := netlink.RuleList(family(w.to))

	for i := 0; i < len(rules); i++ {
		r := rules[i]
		switch {
		case !w.judgedBy(r):
		case r.Goto >= 0:
			for i+1 < len(rules) && rules[i+1].Priority < r.Goto {
				i++
			}
		case r.Table == unix.RT_TABLE_UNSPEC:
			return &decider{rule: r, ended: ended}
		default:
			if route := w.routeIn(r); route != nil {
				return &decider{rule: r, route: route, ended: ended}
			}
		}
	}

	return nil
}

// judgedBy says that a rule is for the packet. What no other program marked has mark 0.
func (w way) judgedBy(r netlink.Rule) bool {
	in := w.in
	if in == "" {
		in = "lo" // so the kernel calls what this machine sends
	}

	mask := ^uint32(0)
	if r.Mask != nil {
		mask = *r.Mask
	}

	device := (r.IifName == "" || r.IifName == in) && r.OifName == ""
	kind := r.Mark&mask == 0 && r.Tos == 0 && r.TunID == 0 && (r.IPProto == 0 || r.IPProto == unix.IPPROTO_TCP)
	ports := r.Dport == nil && r.Sport == nil
	ends := (r.Src == nil || r.Src.Contains(w.from.AsSlice())) && (r.Dst == nil || r.Dst.Contains(w.to.AsSlice()))

	judged := device && kind && ports && ends
	return judged != r.Invert
}

// routeIn is the route of a rule's table that the packet takes: the one with the longest
// prefix (RFC 1812 section 5.2.4.3), then with the lowest metric; nil: none.
func (w way) routeIn(r netlink.Rule) *netlink.Route {
	routes, err := netlink.RouteListFiltered(family(w.to), &netlink.Route{Table: r.Table}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil
	}

	var best *netlink.Route
	for i, route := range routes {
		if route.Dst != nil && !route.Dst.Contains(w.to.AsSlice()) {
			continue
		}

		if best == nil || prefixLen(route) > prefixLen(*best) || prefixLen(route) == prefixLen(*best) && route.Priority < best.Priority {
			best = &routes[i]
		}
	}

	if best == nil || best.Type == unix.RTN_THROW || prefixLen(*best) <= r.SuppressPrefixlen {
		return nil
	}

	return best
}

// prefixLen is the length of a route's prefix; 0 of a default route.
func prefixLen(r netlink.Route) int {
	if r.Dst == nil {
		return 0
	}
	n, _ := r.Dst.Mask.Size()
	return n
}

// family is the address family of an address.
func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// inUsualTable says that the decider is a route of the tables that each machine has.
func (d *decider) inUsualTable() bool {
	return d.rule.Table == unix.RT_TABLE_MAIN || d.rule.Table == unix.RT_TABLE_DEFAULT || d.rule.Table == unix.RT_TABLE_LOCAL
}

// String is the decider as a person reads it: the rule where that is not one that each
// machine has, and the route.
func (d *decider) String() string {
	var b strings.Builder
	if !d.inUsualTable() || d.rule.Src != nil || d.rule.Dst != nil || d.rule.IifName != "" {
		b.WriteString(d.ruleText())
	}

	if d.route == nil {
		return b.String()
	}

	if b.Len() > 0 {
		b.WriteString(", ")
	}

	fmt.Fprintf(&b, "the route %s", cmp.Or(d.ending(), toText(d.route.Dst)))
	if d.ending() != "" {
		fmt.Fprintf(&b, " %s", toText(d.route.Dst))
	}
	if name := deviceName(d.route.LinkIndex); name != "" && d.ending() == "" {
		fmt.Fprintf(&b, " dev %s", name)
	}

	return b.String()
}

// ruleText is the rule as `ip rule` writes it.
func (d *decider) ruleText() string {
	r := d.rule
	var b strings.Builder
	fmt.Fprintf(&b, "the ip rule %d: ", r.Priority)

	if r.Invert {
		b.WriteString("not ")
	}

	from := "all"
	if r.Src != nil {
		from = r.Src.String()
	}
	fmt.Fprintf(&b, "from %s ", from)

	if r.Dst != nil {
		fmt.Fprintf(&b, "to %s ", r.Dst)
	}

	if r.IifName != "" {
		fmt.Fprintf(&b, "iif %s ", r.IifName)
	}

	if r.Mark != 0 {
		fmt.Fprintf(&b, "fwmark %#x ", r.Mark)
		if r.Mask != nil && *r.Mask != ^uint32(0) {
			fmt.Fprintf(&b, "mask %#x ", *r.Mask)
		}
	}

	if d.route == nil {
		b.WriteString(d.ending())
	} else {
		b.WriteString("lookup " + tableName(r.Table))
	}
	return b.String()
}

// ending is the kind of a rule or route that ends packets; empty: it doesn't. A rule tells
// its kind by the kernel's refusal alone (ip-route(8), route types).
func (d *decider) ending() string {
	if d.route != nil {
		return map[int]string{
			unix.RTN_BLACKHOLE:   "blackhole",
			unix.RTN_PROHIBIT:    "prohibit",
			unix.RTN_UNREACHABLE: "unreachable",
		}[d.route.Type]
	}

	switch {
	case errors.Is(d.ended, unix.EINVAL):
		return "blackhole"
	case errors.Is(d.ended, unix.EACCES):
		return "prohibit"
	}
	return "unreachable"
}

// toText is a network as ip(8) writes it.
func toText(n *net.IPNet) string {
	if n == nil {
		return "default"
	}

	if ones, _ := n.Mask.Size(); ones == 0 {
		return "default"
	}

	return n.String()
}

// tableName is a table as ip(8) writes it.
func tableName(table int) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}

	return fmt.Sprint(table)
}

// ahead is the priority of a rule that comes before the decider's.
func (d *decider) ahead() int { return max(d.rule.Priority-1, 0) }
