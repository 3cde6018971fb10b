package netcheck

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// table is what the check's own nftables tables are called: one of family inet,
// one of netdev that leads outside, and one of bridge.
func table(id string) string { return "cupel_" + id + "_check" }

const nftTimeout = 5 * time.Second

// nft runs commands in nft's language, as one transaction.
func nft(commands string) error {
	ctx, cancel := context.WithTimeout(context.Background(), nftTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(commands)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func removeTables(id string) {
	for _, family := range []string{"inet", "netdev", "bridge"} {
		// The first line makes the second one succeed.
		_ = nft(fmt.Sprintf("add table %[1]s %[2]s\ndelete table %[1]s %[2]s\n", family, table(id)))
	}
}

// divert leads what leaves by the uplink for the namespace outside into its link.
func divert(id, link, uplink string, out4, out6 netip.Addr) error {
	return nft(fmt.Sprintf(`table netdev %s {
	chain out {
		type filter hook egress device %q priority -500;
		ip daddr %s fwd to %q
		ip6 daddr %s fwd to %q
	}
}
`, table(id), uplink, out4, link, out6, link))
}

// program adds the table that makes the check's packets traceable, catches its
// questions to name servers before they leave, and leads its own public port to
// its instance.
func (l *lab) program(context.Context) error {
	var dnat, masquerade string
	if l.ours {
		// Before the balancer's own chain, whose priority is -100.
		dnat = fmt.Sprintf("ip saddr %s ip daddr %s tcp dport %d dnat ip to %s:%d", l.out4, l.here4, l.port, l.Instance, instancePort)
	}
	// The balancer's table does the same for the whole subnet; before there is one
	// the check goes without it.
	masquerade = fmt.Sprintf("ip saddr %s ip daddr %s masquerade", l.Instance, l.out4)
	err := nft(fmt.Sprintf(`table inet %[1]s {
	counter asked {}
	chain traced_in {
		type filter hook prerouting priority -500;
		ip saddr { %[2]s, %[3]s } meta nftrace set 1
		ip daddr %[2]s meta nftrace set 1
		ip6 saddr %[4]s meta nftrace set 1
	}
	chain traced_out {
		type filter hook output priority -500;
		ip daddr { %[2]s, %[3]s } meta nftrace set 1
		ip6 daddr %[4]s meta nftrace set 1
	}
	chain caught_passing {
		type filter hook postrouting priority 99;
		ip saddr %[2]s udp dport 53 counter name asked drop
	}
	chain caught_here {
		type filter hook input priority 10000;
		ip saddr %[2]s udp dport 53 counter name asked drop
	}
	chain public {
		type nat hook prerouting priority -101;
		%[5]s
	}
	chain hide {
		type nat hook postrouting priority 101;
		%[6]s
	}
}
`, table(l.ID), l.Instance, l.out4, l.out6, dnat, masquerade))
	if err != nil {
		return err
	}
	// Rules of the bridge's own come before those. Not every kernel has them.
	_ = nft(fmt.Sprintf(`table bridge %s {
	chain traced {
		type filter hook prerouting priority -500;
		iifname %q meta nftrace set 1
	}
}
`, table(l.ID), deviceInside(l.ID)))
	return nil
}

var packets = regexp.MustCompile(`packets (\d+)`)

// asked is how many questions to name servers were caught at the end of their way
// through this machine.
func (l *lab) asked() string {
	ctx, cancel := context.WithTimeout(context.Background(), nftTimeout)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "nft", "list", "counter", "inet", table(l.ID), "asked").Output()
	if m := packets.FindSubmatch(out); m != nil {
		return string(m[1])
	}
	return ""
}
