package balance

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dropFlows deletes the conntrack entries of connections that were translated
// to an address in subnet which no longer serves that port. The next packet of
// such a connection reaches an instance that doesn't know it, which resets it.
//
// ended remembers them from pass to pass.
func dropFlows(subnet netip.Prefix, stays staying, ended endedFlows) (int, error) {
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("open netlink to conntrack: %w", err)
	}
	defer h.Close()

	n, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, goneFlows{subnet, stays, ended})
	if err != nil {
		return int(n), fmt.Errorf("delete conntrack entries: %w", err)
	}

	return int(n), nil
}

// endedFlows is what was deleted. If the instance and not the client is the
// first to send on such a connection, say the answer to a request that was under
// way, the kernel makes a new entry: one of a connection from the instance to
// the client, masqueraded to the very address and port that the client called.
// To the client that is the old connection, and it goes on. So these entries are
// deleted too, in pass after pass, until it was the client who sent first.
type endedFlows map[flowEnds]served

// flowEnds are the two ends of a connection, as they see themselves.
type flowEnds struct{ client, endpoint netip.AddrPort }

// goneFlows selects the entries to delete.
type goneFlows struct {
	subnet netip.Prefix
	stays  staying
	ended  endedFlows
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (g goneFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	begins, ok1 := addrPort(f.Forward.SrcIP, f.Forward.SrcPort)
	called, ok2 := addrPort(f.Forward.DstIP, f.Forward.DstPort)
	answers, ok3 := addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)
	if !ok1 || !ok2 || !ok3 || f.Forward.Protocol != unix.IPPROTO_TCP {
		return false
	}

	// What was deleted and came back, begun by the instance's side.
	if again, ok := g.ended[flowEnds{client: called, endpoint: begins}]; ok {
		return !g.stays.has(again)
	}

	// What was translated to an instance that no longer serves that port.
	to := served{called.Port(), answers}
	if called.Addr() == answers.Addr() || !g.subnet.Contains(answers.Addr()) || g.stays.has(to) {
		return false
	}

	g.ended[flowEnds{client: begins, endpoint: answers}] = to
	return true
}

// translatedTo counts the connections that were translated to each of the addresses
// and of which an end may still send.
func translatedTo(addrs map[netip.Addr]bool) (map[netip.Addr]int, error) {
	open := map[netip.Addr]int{}
	if len(addrs) == 0 {
		return open, nil
	}

	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list conntrack entries: %w", err)
	}

	for _, f := range flows {
		called, ok1 := addrPort(f.Forward.DstIP, f.Forward.DstPort)
		answers, ok2 := addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)
		if ok1 && ok2 && addrs[answers.Addr()] && called.Addr() != answers.Addr() && underWay(f) {
			open[answers.Addr()]++
		}
	}

	return open, nil
}

// underWay says that not both ends of a TCP connection have said all, and none has
// broken it off (enum tcp_conntrack, linux/netfilter/nf_conntrack_tcp.h).
func underWay(f *netlink.ConntrackFlow) bool {
	const synSent, closeWait = 1, 5 // and between them synRecv, established and finWait

	tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
	return ok && tcp.State >= synSent && tcp.State <= closeWait
}

// addrPort reads an address of conntrack's, which may be mapped into IPv6.
func addrPort(ip net.IP, port uint16) (netip.AddrPort, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port), ok
}
