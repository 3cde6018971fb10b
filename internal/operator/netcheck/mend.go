package netcheck

import (
	"cmp"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// hook is where in the kernel a packet was.
type hook struct {
	name, doing string
	bridge      string // what family bridge calls the bridge that it knows there
}

var hooks = map[string]hook{
	"forward":     {"forward", "forwarded (forward)", "ibrname"},
	"input":       {"input", "on its way into this machine (input)", "ibrname"},
	"output":      {"output", "on its way out of this machine (output)", "obrname"},
	"prerouting":  {"prerouting", "arriving (prerouting)", "ibrname"},
	"postrouting": {"postrouting", "leaving (postrouting)", "obrname"},
	"ingress":     {"ingress", "arriving (ingress)", "ibrname"},
	"egress":      {"egress", "leaving (egress)", "obrname"},
}

// hookOf asks nft where the base chain is hooked in.
func hookOf(d drop) hook {
	out, _ := exec.Command("nft", "list", "chain", d.family, d.table, d.base).Output()
	_, after, _ := strings.Cut(string(out), " hook ")
	if h, ok := hooks[cmp.Or(strings.Fields(after + " ?")[0], "?")]; ok {
		return h
	}
	return hook{"?", "passing", "ibrname"}
}

// let are the commands that let a probe's packets past a rule of nftables, and as
// little else as can be.
func (l *lab) let(p *probe, d drop, h hook) []string {
	allow := l.allow(p, h, d.iif, d.oif)
	if d.family == "bridge" {
		allow = []match{{nft: fmt.Sprintf("meta %s %q", h.bridge, l.Bridge)}}
	}
	if d.family == "arp" {
		allow = []match{{nft: fmt.Sprintf("iifname %q", l.Bridge)}}
	}
	ipt := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[d.family]
	var mend []string
	switch {
	case d.table == "firewalld" && installed("firewall-cmd") && !p.users && !p.host:
		return []string{"firewall-cmd --permanent --zone=trusted --add-interface=" + l.Bridge, "firewall-cmd --reload"}
	case d.table == "firewalld" && installed("firewall-cmd") && p.users:
		return []string{fmt.Sprintf("firewall-cmd --permanent --add-port=%d/tcp", p.to.Port()), "firewall-cmd --reload"}
	case ipt != "" && installed("ufw") && hasChain(d, "ufw-user-forward", "ufw6-user-forward"):
		return l.ufw(p, h)
	case ipt != "" && isIPTables(d) && usesNFT(ipt):
		chain := d.base
		if chain == "FORWARD" && hasChain(d, "DOCKER-USER") {
			chain = "DOCKER-USER"
		}
		for _, a := range allow {
			mend = append(mend, strings.TrimSpace(fmt.Sprintf("%s -t %s -I %s %s -j ACCEPT", ipt, d.table, chain, a.iptables)))
		}
	default:
		for _, a := range allow {
			mend = append(mend, strings.TrimSpace(fmt.Sprintf("nft insert rule %s %s %s %s accept", d.family, d.table, d.base, a.nft)))
		}
	}
	return mend
}

// letLegacy are the same commands for iptables-legacy.
func (l *lab) letLegacy(p *probe, d legacyDrop, h hook) []string {
	var mend []string
	iif, oif := l.Bridge, l.Bridge
	switch h.name {
	case "prerouting":
		oif = ""
	case "postrouting":
		iif = ""
	}
	for _, a := range l.allow(p, h, iif, oif) {
		mend = append(mend, strings.TrimSpace(fmt.Sprintf("%s -t %s -I %s %s -j ACCEPT", d.tool, d.table, l.legacyBase(p, d), a.iptables)))
	}
	return mend
}

// match selects packets in the words of either tool.
type match struct{ nft, iptables string }

// only narrows a match down.
func (m match) only(nft, iptables string) match {
	return match{strings.TrimSpace(m.nft + " " + nft), strings.TrimSpace(m.iptables + " " + iptables)}
}

var (
	replies    = match{"ct state established,related", "-m conntrack --ctstate RELATED,ESTABLISHED"}
	translated = match{"ct status dnat", "-m conntrack --ctstate DNAT"}
)

// allow is what has to be accepted at a hook.
func (l *lab) allow(p *probe, h hook, iif, oif string) []match {
	in := match{fmt.Sprintf("iifname %q", l.Bridge), "-i " + l.Bridge}
	out := match{fmt.Sprintf("oifname %q", l.Bridge), "-o " + l.Bridge}
	to, from := p.port("d"), p.port("s")
	at := match{"ip daddr " + p.to.Addr().String(), "-d " + p.to.Addr().String()}
	switch h.name {
	case "forward":
		switch {
		case p.users:
			return []match{out.only(translated.nft, translated.iptables), in.only(replies.nft, replies.iptables)}
		case p.wanted():
			return []match{in, out.only(replies.nft, replies.iptables)}
		}
		return []match{in.only(at.nft, at.iptables).only(to.nft, to.iptables), out.only(replies.nft, replies.iptables)}
	case "input":
		if p.host {
			return []match{in.only(replies.nft, replies.iptables)}
		}
		if p.users {
			return []match{to}
		}
		return []match{in.only(to.nft, to.iptables)}
	case "output":
		if p.host {
			return []match{out.only(to.nft, to.iptables)}
		}
		if p.users {
			return []match{from}
		}
		if p.stalls {
			return []match{out.only("icmp type destination-unreachable", "-p icmp --icmp-type destination-unreachable")}
		}
		return []match{out.only(from.nft, from.iptables)}
	}

	// Here little of a packet is known for sure.
	switch {
	case h.name == "egress" && p.users:
		return []match{from}
	case h.name == "egress":
		return []match{to}
	case p.users && iif != "" && iif != l.Bridge:
		return []match{to.only(fmt.Sprintf("iifname %q", iif), "-i "+iif)}
	case iif == "":
		return []match{{fmt.Sprintf("oifname %q", oif), "-o " + oif}}
	case iif == l.Bridge && p.host:
		return []match{in.only(from.nft, from.iptables)}
	case iif == l.Bridge:
		return []match{in}
	case h.name == "ingress":
		return []match{from}
	}
	return []match{replies.only(fmt.Sprintf("iifname %q", iif), "-i "+iif)}
}

// port matches the probe's port: d is the one that is called, s the one that answers.
func (p *probe) port(side string) match {
	proto := "tcp"
	if p.Name == InstanceDNS {
		proto = "udp"
	}
	n := p.to.Port()
	return match{fmt.Sprintf("%s %sport %d", proto, side, n), fmt.Sprintf("-p %s --%sport %d", proto, side, n)}
}

func (l *lab) ufw(p *probe, h hook) []string {
	port, proto := p.to.Port(), "tcp"
	if p.Name == InstanceDNS {
		proto = "udp"
	}
	switch {
	case p.host:
		return []string{fmt.Sprintf("ufw allow out on %s to any port %d proto tcp", l.Bridge, port)}
	case h.name == "forward" && p.users:
		return []string{"ufw route allow out on " + l.Bridge}
	case h.name == "forward" && p.wanted():
		return []string{"ufw route allow in on " + l.Bridge}
	case h.name == "forward":
		return []string{fmt.Sprintf("ufw route allow in on %s to %s port %d proto %s", l.Bridge, p.to.Addr(), port, proto)}
	case p.users:
		return []string{fmt.Sprintf("ufw allow %d/tcp", port)}
	}
	return []string{fmt.Sprintf("ufw allow in on %s to any port %d proto %s", l.Bridge, port, proto)}
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// isIPTables says that a rule is where iptables has its own.
func isIPTables(d drop) bool {
	return slices.Contains([]string{"filter", "nat", "mangle", "raw", "security"}, d.table) && hooks[strings.ToLower(d.base)].name != "" && d.base == strings.ToUpper(d.base)
}

// usesNFT says that the tool of that name programs nftables.
func usesNFT(tool string) bool {
	out, err := exec.Command(tool, "-V").Output()
	return err == nil && strings.Contains(string(out), "nf_tables")
}

// hasChain says that the drop's table has one of the chains.
func hasChain(d drop, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return exec.Command("nft", "list", "chain", d.family, d.table, name).Run() == nil
	})
}
