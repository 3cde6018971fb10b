package balance

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Restore looks whether the kernel has what was applied, and writes it anew where
// another program took some of it away: a table, chains, sets, rules, or all rules of
// the machine. It returns what was found, for people; empty: all is there.
//
// Connections that are under way went on meanwhile. Clients keep their instance as
// far as that is known: by connections that the kernel still knows, and those that
// came through the listener.
func (b *Balancer) Restore(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return "", nil
	}

	have, err := b.kernel.read()
	if err != nil {
		return "", err
	}
	// What a predecessor left is judged when the manager knows what it wants.
	if b.fresh && have.current || !b.fresh && have.serves(b.applied) {
		return "", nil
	}

	want := b.applied
	if b.fresh {
		want = nil
	}

	if err := b.kernel.program(have, nil, want); err != nil {
		return "", err
	}

	what := fmt.Sprintf("another program took the nftables table inet %s away, or a part of it: it was written anew", b.kernel.table.Name)
	if !have.exists {
		what = fmt.Sprintf("another program deleted the nftables table inet %s: it was written anew", b.kernel.table.Name)
	}

	if !have.current { // it was replaced as a whole
		have.sets = nil
	}

	clients, err := b.remind(have)
	if err != nil {
		return what, fmt.Errorf("not every client keeps its instance: %w", err)
	}
	return fmt.Sprintf("%s; %d clients keep their instances, others may be led to another", what, clients), nil
}

// remind tells the kernel which clients belong where, for the sets that it had lost.
func (b *Balancer) remind(had tableState) (int, error) {
	members := b.affinity.members(had.sets)
	sets := map[served]string{}
	for _, f := range b.applied {
		for _, e := range f.endpoints {
			if !had.sets[e.set4] {
				sets[served{f.port, e.addr}] = e.set4
			}
		}
	}

	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		return 0, fmt.Errorf("list conntrack entries: %w", err)
	}

	// Of several connections of a client's the newest counts: of those that are open
	// any, of the others the one that the kernel keeps longest.
	type caller struct {
		client netip.Addr
		port   uint16
	}
	newest := map[caller]*netlink.ConntrackFlow{}

	for _, f := range flows {
		client, ok1 := netip.AddrFromSlice(f.Forward.SrcIP)
		answers, ok2 := addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)
		tcp, ok3 := f.ProtoInfo.(*netlink.ProtoInfoTCP)
		if !ok1 || !ok2 || !ok3 {
			continue
		}

		// What has not been answered, or is over, says nothing; neither does what leads
		// to an instance whose set was not lost.
		answered := tcp.State >= tcpEstablished && tcp.State <= tcpTimeWait
		if !answered || sets[served{f.Forward.DstPort, answers}] == "" {
			continue
		}

		by := caller{client.Unmap(), f.Forward.DstPort}
		if before := newest[by]; before == nil || f.TimeOut > before.TimeOut {
			newest[by] = f
		}
	}

	known := map[membership]bool{}
	for _, m := range members {
		known[m] = true
	}

	for by, f := range newest {
		answers, _ := addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)
		if m := (membership{sets[served{by.port, answers}], by.client}); !known[m] {
			members = append(members, m)
		}
	}

	for batch := range slices.Chunk(members, batchSize/3) { // three messages each
		if err := b.kernel.remember(batch); err != nil {
			return 0, err
		}
	}

	return len(members), nil
}

// From tcpEstablished to tcpTimeWait a client has answered (enum tcp_conntrack,
// linux/netfilter/nf_conntrack_tcp.h).
const (
	tcpEstablished = 3
	tcpTimeWait    = 7
)
