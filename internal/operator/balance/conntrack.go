package balance

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dropFlows deletes the conntrack entries of connections that were translated
// to an address in subnet which no longer serves that port. The next packet of
// such a connection reaches an instance that doesn't know it, which resets it.
func dropFlows(subnet netip.Prefix, stays map[served]bool) (int, error) {
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("open netlink to conntrack: %w", err)
	}
	defer h.Close()
	n, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, goneFlows{subnet, stays})
	if err != nil {
		return int(n), fmt.Errorf("delete conntrack entries: %w", err)
	}
	return int(n), nil
}

// goneFlows selects those entries.
type goneFlows struct {
	subnet netip.Prefix
	stays  map[served]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (g goneFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	called, ok1 := netip.AddrFromSlice(f.Forward.DstIP)
	answers, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP)
	if !ok1 || !ok2 || f.Forward.Protocol != unix.IPPROTO_TCP {
		return false
	}
	called, answers = called.Unmap(), answers.Unmap()
	translated := called != answers && g.subnet.Contains(answers)
	return translated && !g.stays[served{f.Forward.DstPort, netip.AddrPortFrom(answers, f.Reverse.SrcPort)}]
}
