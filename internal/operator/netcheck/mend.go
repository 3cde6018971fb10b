package netcheck

import (
	"fmt"
	"strings"
)

// match selects packets in the words of either tool.
type match struct{ nft, iptables string }

// and narrows a match down.
func (m match) and(more match) match {
	return match{strings.TrimSpace(m.nft + " " + more.nft), strings.TrimSpace(m.iptables + " " + more.iptables)}
}

var (
	replies    = match{"ct state established,related", "-m conntrack --ctstate RELATED,ESTABLISHED"}
	translated = match{"ct status dnat", "-m conntrack --ctstate DNAT"}
	// answering is what TCP answers have all, and what asks for a connection never has: it has
	// SYN alone (RFC 9293 section 3.5).
	answering = match{"tcp flags ack,rst", "-p tcp ! --syn"}
	// tooLarge is how a router says that a packet is too large (RFC 1191 section 4).
	tooLarge = match{"icmp type destination-unreachable", "-p icmp --icmp-type destination-unreachable"}
)

// let are the commands that let a probe's packets past what stops one, and as little else
// as can be.
func (l *lab) let(p *probe, s stop) []string {
	switch {
	case s.tool == "firewalld" && p.users:
		return []string{fmt.Sprintf("firewall-cmd --permanent --add-port=%d/tcp", p.to.Port()), "firewall-cmd --reload"}
	case s.tool == "firewalld" && !p.host:
		return []string{"firewall-cmd --permanent --zone=trusted --add-interface=" + l.Bridge, "firewall-cmd --reload"}
	case s.tool == "ufw":
		return l.ufw(p, s.at.name)
	}

	var mend []string
	for _, m := range l.allow(p, s.at, s.packet) {
		mend = append(mend, s.accept(m))
	}
	return mend
}

// allow is what has to be accepted at a place where a packet was stopped.
func (l *lab) allow(p *probe, at hook, k packet) []match {
	switch {
	case at.family == "bridge" && k.proto == "arp":
		return []match{{nft: "arp saddr ip " + l.Subnet.String()}}
	case at.family == "bridge": // of which not every kernel can say which bridge it is
		return []match{{nft: "ip saddr " + l.Subnet.String()}, {nft: "ip daddr " + l.Subnet.String()}}
	case at.family == "arp":
		return []match{l.passing(at, k)}
	case at.name == "forward":
		in, out := packet{iif: l.Bridge}, packet{oif: l.Bridge}
		if p.users {
			in = packet{oif: l.Bridge}
			out = packet{iif: l.Bridge}
		}
		return append([]match{l.request(p, at, in)}, l.answers(p, at, out)...)
	case l.isAnswer(p, k):
		return l.answers(p, at, k)
	}
	return []match{l.request(p, at, k)}
}

// isAnswer says that a packet is of what was called, not of who calls.
func (l *lab) isAnswer(p *probe, k packet) bool {
	fromInstance := l.isInner(k.iif) || k.iif == "" && !l.isInner(k.oif)
	return fromInstance == (p.users || p.host)
}

// isInner says that a device is on the instances' side.
func (l *lab) isInner(device string) bool { return device == l.Bridge || device == deviceInside(l.ID) }

// passing are packets by the device that they come in by, or go out of where none is known.
func (l *lab) passing(at hook, k packet) match {
	switch {
	case at.family == "netdev": // whose chains are of devices
		return match{}
	case at.name == "postrouting" || at.name == "output" || k.iif == "":
		return match{fmt.Sprintf("oifname %q", k.oif), "-o " + k.oif}
	}
	return match{fmt.Sprintf("iifname %q", k.iif), "-i " + k.iif}
}

// request is what asks for a connection.
func (l *lab) request(p *probe, at hook, k packet) match {
	from := l.passing(at, k)

	if at.name == "postrouting" && !p.users && !p.host {
		from = from.and(match{"ct original ip saddr " + l.Subnet.String(), "-m conntrack --ctorigsrc " + l.Subnet.String()})
	}

	to := match{"ip daddr " + p.to.Addr().String(), "-d " + p.to.Addr().String()}

	switch {
	case p.users && (at.name == "forward" || at.name == "postrouting"):
		return from.and(translated).and(p.clients)
	case p.users:
		return p.port("d").and(p.clients)
	case p.host || at.name == "input":
		return from.and(p.port("d"))
	case at.name == "egress":
		return p.port("d")
	case p.wanted():
		return from
	}
	return from.and(to).and(p.port("d"))
}

// answers are what comes back.
func (l *lab) answers(p *probe, at hook, k packet) []match {
	from := l.passing(at, k)
	switch {
	case at.tracks():
		return []match{from.and(replies)}
	case p.stalls && at.name == "output":
		return []match{from.and(tooLarge)}

	case p.users && l.isInner(k.iif):
		return []match{from.and(answering)}
	case p.wanted():
		// Also from name servers, whose answers the check doesn't see.
		return []match{from.and(answering), from.and(match{"udp sport 53", "-p udp --sport 53"})}
	}
	return []match{from.and(p.port("s"))}
}

// port matches the probe's port: d is the one that is called, s the one that answers.
func (p *probe) port(side string) match {
	n := p.to.Port()
	return match{fmt.Sprintf("%s %sport %d", p.proto(), side, n), fmt.Sprintf("-p %s --%sport %d", p.proto(), side, n)}
}

// proto is the probe's protocol, as nft and iptables name it.
func (p *probe) proto() string {
	if p.Name == InstanceDNS {
		return "udp"
	}
	return "tcp"
}

// ufw are the commands of ufw(8), whose rules others must not write between.
func (l *lab) ufw(p *probe, hook string) []string {
	port := p.to.Port()

	switch {
	case p.host:
		return []string{fmt.Sprintf("ufw allow out on %s to any port %d proto tcp", l.Bridge, port)}
	case hook == "forward" && p.users:
		return []string{"ufw route allow out on " + l.Bridge}
	case hook == "forward" && p.wanted():
		return []string{"ufw route allow in on " + l.Bridge}
	case hook == "forward":
		return []string{fmt.Sprintf("ufw route allow in on %s to %s port %d proto %s", l.Bridge, p.to.Addr(), port, p.proto())}
	case p.users && p.clients != (match{}):
		return []string{fmt.Sprintf("ufw allow from CLIENTS to any port %d proto tcp", port)}
	case p.users:
		return []string{fmt.Sprintf("ufw allow %d/tcp", port)}
	}

	return []string{fmt.Sprintf("ufw allow in on %s to any port %d proto %s", l.Bridge, port, p.proto())}
}
