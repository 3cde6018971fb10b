package netcheck

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// checkTable is what the check's own nftables tables are called: one of family inet, one of
// netdev that leads outside, one of bridge and one of arp.
func checkTable(id string) string { return "cupel_" + id + "_check" }

// nftTimeout is how long a call of nft may take.
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

// removeTables deletes all tables of the check's own.
func removeTables(id string) {
	for _, family := range []string{"inet", "netdev", "bridge", "arp"} {
		// The first line makes the second one succeed.
		_ = nft(fmt.Sprintf("add table %[1]s %[2]s\ndelete table %[1]s %[2]s\n", family, checkTable(id)))
	}
}

// divert leads what leaves for the road's end into link, after everybody else's rules
// for the device, and makes what comes from there traceable before them.
func (l *lab) divert(link string, r *road) error {
	ip := "ip"
	untranslated := fmt.Sprintf("ip saddr %s ip daddr %s counter name untranslated drop", l.Subnet, r.out)
	if r.out.Is6() {
		ip = "ip6"
		untranslated = ""
	}

	return nft(fmt.Sprintf(`table netdev %[1]s {
	counter untranslated {}
	chain in_%[2]s {
		type filter hook ingress device %[3]q priority -500;
		%[2]s saddr %[4]s meta nftrace set 1
	}
	chain out_%[2]s {
		type filter hook egress device %[3]q priority 500;
		%[5]s
		%[2]s daddr %[4]s fwd %[2]s to %[4]s device %[6]q
	}
}
`, checkTable(l.ID), ip, r.device(), r.out, untranslated, link))
}

// program adds the table that makes the check's packets traceable, catches its
// questions to name servers before they leave, and leads its own public port to
// its instance.
func (l *lab) program(context.Context) error {
	var dnat, asked string
	if l.ours {
		// Before the balancer's own chain, whose priority is -100.
		dnat = fmt.Sprintf("ip saddr %s ip daddr %s tcp dport %d dnat ip to %s:%d", l.v4.out, l.v4.here, l.port, l.Instance, instancePort)
	}

	// The balancer's table hides the whole subnet; before there is one the check goes
	// without it.
	hidden := []string{l.v4.out.String()}
	for _, t := range l.To {
		if !l.isHere(t.Addr.Addr()) {
			hidden = append(hidden, t.Addr.Addr().String())
			asked += fmt.Sprintf("ip saddr %s tcp sport %d meta nftrace set 1\n", t.Addr.Addr(), t.Addr.Port())
		}
	}

	err := nft(fmt.Sprintf(`table inet %[1]s {
	counter asked {}
	chain arriving {
		type filter hook prerouting priority -500;
		ip saddr { %[2]s, %[3]s } meta nftrace set 1
		ip daddr %[2]s meta nftrace set 1
		ip6 saddr %[4]s meta nftrace set 1
		%[7]s
	}
	chain sent {
		type filter hook output priority -500;
		ip daddr { %[2]s, %[3]s } meta nftrace set 1
		ip6 daddr %[4]s meta nftrace set 1
	}
	chain forwarded {
		type filter hook forward priority 10000;
	}
	chain leaving {
		type filter hook postrouting priority 10000;
	}
	chain received {
		type filter hook input priority 10000;
		ip saddr %[2]s udp dport 53 counter name asked drop
	}
	chain caught {
		type filter hook postrouting priority 99;
		ip saddr %[2]s udp dport 53 ct state untracked drop
		ip saddr %[2]s udp dport 53 counter name asked drop
	}
	chain public {
		type nat hook prerouting priority -101;
		%[5]s
	}
	chain hide {
		type nat hook postrouting priority 101;
		ip saddr %[2]s ip daddr { %[6]s } masquerade
	}
}
`, checkTable(l.ID), l.Instance, l.v4.out, l.v6.out, dnat, strings.Join(hidden, ", "), asked))

	if err != nil {
		return err
	}

	// Rules of the bridge's own and of its neighbours come before those. Not every
	// kernel has them.
	for _, family := range []string{"bridge", "netdev", "arp"} {
		hook := map[string]string{
			"bridge": "hook prerouting",
			"netdev": fmt.Sprintf("hook ingress device %q", deviceInside(l.ID)),
			"arp":    "hook input",
		}[family]

		device := map[string]string{"bridge": deviceInside(l.ID), "netdev": deviceInside(l.ID), "arp": l.Bridge}[family]
		_ = nft(fmt.Sprintf(`table %[1]s %[2]s {
	chain traced {
		type filter %[3]s priority -500;
		iifname %[4]q meta nftrace set 1
	}
}
`, family, checkTable(l.ID), hook, device))
	}
	return nil
}

// packets is how nft lists what a counter counted.
var packets = regexp.MustCompile(`packets (\d+)`)

// caughtQuestions is how many questions to name servers were caught at the end of
// their way through this machine.
func (l *lab) caughtQuestions() string { return l.counter("inet", "asked") }

// untranslated is how many packets left this machine with an instance's own address.
func (l *lab) untranslated() string { return l.counter("netdev", "untranslated") }

// counter is what one of the check's own counted; empty: it can't be read.
func (l *lab) counter(family, name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), nftTimeout)
	defer cancel()

	out, _ := exec.CommandContext(ctx, "nft", "list", "counter", family, checkTable(l.ID), name).Output()
	if m := packets.FindSubmatch(out); m != nil {
		return string(m[1])
	}

	return ""
}
