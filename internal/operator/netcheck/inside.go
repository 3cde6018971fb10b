package netcheck

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file looks for routes that lead a part of the instances' network elsewhere, as a
// VPN's do: an address of the check's own may be in the other part.

// ledAway names all such routes, and leads the whole network to the bridge again. Nil:
// there are none.
func (l *lab) ledAway() *cause {
	bridge, err := netlink.LinkByName(l.Bridge)
	if err != nil {
		return nil
	}

	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	routes, _ := netlink.RouteListFiltered(unix.AF_INET, all, netlink.RT_FILTER_TABLE)

	var found []string
	ahead := -1 // the lowest priority of a rule that comes before all of them

	for _, r := range routes {
		if r.Table == unix.RT_TABLE_LOCAL || r.Type == unix.RTN_THROW || r.LinkIndex == bridge.Attrs().Index || r.Dst == nil {
			continue
		}

		w := way{from: l.Gateway, to: l.someOf(r)}
		if !w.to.IsValid() || w.device() == l.Bridge {
			continue
		}

		d := w.decidedBy()
		if d == nil || d.route == nil || d.route.Table != r.Table || toText(d.route.Dst) != toText(r.Dst) {
			continue // something else leads it away
		}

		found = append(found, d.String())
		if ahead < 0 || d.ahead() < ahead {
			ahead = d.ahead()
		}
	}

	if len(found) == 0 {
		return nil
	}

	table := freeTable(unix.AF_INET)
	return &cause{
		text: fmt.Sprintf("a part of the instances' network %s is led elsewhere than to %s: %s", l.Subnet, l.Bridge, strings.Join(unique(found), "; ")),
		mend: []string{
			fmt.Sprintf("ip route add %s dev %s table %d", l.Subnet, l.Bridge, table),
			fmt.Sprintf("ip rule add to %s lookup %d priority %d", l.Subnet, table, ahead),
		},
	}
}

// someOf is an address that an instance may have, of those that a route inside the
// instances' network is for; invalid: it has none.
func (l *lab) someOf(r netlink.Route) netip.Addr {
	first, ok := netip.AddrFromSlice(r.Dst.IP)

	first = first.Unmap()
	to := netip.PrefixFrom(first, prefixLen(r))
	if !ok || !l.Subnet.Contains(first) || to.Bits() < l.Subnet.Bits() {
		return netip.Addr{}
	}

	for a := first; to.Contains(a); a = a.Next() {
		if a != l.Gateway && a != l.Subnet.Masked().Addr() {
			return a
		}
	}

	return netip.Addr{}
}
