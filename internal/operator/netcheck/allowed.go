package netcheck

import (
	"regexp"
	"strings"
)

// This file finds out whether a firewall lets through what its rules name, one by one,
// and stops the rest: whether all that anybody needs is named can't be known.

// letsOne is a rule by which a TCP connection of an instance to some address or port is
// accepted, or of users to some port, of all users if there is one; empty: there is none,
// or the probe is of what everybody needs. Rules are written by nft or iptables.
func (l *lab) letsOne(p *probe, s stop) string {
	outward := p.wanted() && s.at.name == "forward"
	hypothetical := p.users && l.ours
	if !outward && !hypothetical {
		return ""
	}

	k := packet{iif: l.Bridge, oif: l.v4.device()}
	if p.users {
		k.iif = l.v4.device()
		k.oif = l.Bridge
	}

	some := ""
	for _, rule := range s.rules() {
		if p.users && s.at.name == "forward" && !strings.Contains(rule, l.Bridge) {
			continue // it is about what somebody else forwards
		}

		names := ruleNamed.MatchString(rule) || !p.users && ruleAddress.MatchString(rule)
		accepts := ruleAccepts.MatchString(rule) && !ruleOther.MatchString(rule) && begins(rule)
		if !names || !accepts || !l.concerns(rule, k) {
			continue
		}
		if !p.users && !l.leadsOut(rule) {
			continue
		}

		some = plainRule(rule)
		if !p.users || !ruleSource.MatchString(rule) {
			break
		}
	}

	return some
}

// What rules say, in the words of nft or of iptables (nft(8); iptables-extensions(8)).
var (
	ruleAccepts  = regexp.MustCompile(`(?:^|\s)accept\b|-j ACCEPT\b`)
	ruleOther    = regexp.MustCompile(`\b(?:udp|icmp\w*|ipv6-icmp|sctp|esp|gre|igmp)\b|ct status|--ctstate DNAT`)
	ruleNamed    = regexp.MustCompile(`\b[dt]port\b|--dports?\b|multiport|th dport`)
	ruleAddress  = regexp.MustCompile(`\bdaddr\b|(?:^|\s)-d\s`)
	ruleCounters = regexp.MustCompile(`counter packets \d+ bytes \d+ ?|^\[\d+:\d+\] `)
	ruleNew      = regexp.MustCompile(`(?i)\bnew\b`)
	ruleStates   = regexp.MustCompile(`(! )?(?:\bct state|--ctstate|--state) (!= )?(\{[^}]*\}|\S+)`)
	ruleReplies  = regexp.MustCompile(`\bct direction reply\b|--ctdir REPLY\b`)
	rulePacket   = regexp.MustCompile(`(?:^|[^!]\s)-p (tcp|udp|icmp)\b`)
	ruleFromPort = regexp.MustCompile(`(?:^|[^!]\s)--sport (\d+)(?:\s|$)`)
	ruleToPort   = regexp.MustCompile(`(?:^|[^!]\s)--dport (\d+)(?:\s|$)`)
	ruleIn       = regexp.MustCompile(`(?:\biif(?:name)? (!= |)|(?:^|\s)(! |)-i )(?:"([^"]+)"|(\S+))`)
	ruleOut      = regexp.MustCompile(`(?:\boif(?:name)? (!= |)|(?:^|\s)(! |)-o )(?:"([^"]+)"|(\S+))`)
)

// plainRule is a rule without what changes with each packet.
func plainRule(rule string) string { return strings.TrimSpace(ruleCounters.ReplaceAllString(rule, "")) }

// concerns says that the devices, the protocol and the ports which a rule names, if any,
// may be those of a packet, as far as these are known.
func (l *lab) concerns(rule string, k packet) bool {
	for re, device := range map[*regexp.Regexp]string{ruleIn: k.iif, ruleOut: k.oif} {
		m := re.FindStringSubmatch(rule)
		if m == nil || device == "" || strings.HasPrefix(m[4], "{") { // a set may have any
			continue
		}

		name := m[3] + m[4]
		start, wild := strings.CutSuffix(strings.ReplaceAll(name, "+", "*"), "*")
		same := name == device || wild && strings.HasPrefix(device, start)
		if same != (m[1]+m[2] == "") {
			return false
		}
	}

	for re, value := range map[*regexp.Regexp]string{rulePacket: k.proto, ruleFromPort: k.sport, ruleToPort: k.dport} {
		if m := re.FindStringSubmatch(rule); m != nil && value != "" && m[1] != value {
			return false
		}
	}

	return true
}

// begins says that a rule holds for the first packet of a connection too.
func begins(rule string) bool {
	m := ruleStates.FindStringSubmatch(rule)
	return !ruleReplies.MatchString(rule) && (m == nil || m[1]+m[2] != "" || ruleNew.MatchString(m[3]))
}
