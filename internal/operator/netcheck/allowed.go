package netcheck

import (
	"context"
	"os/exec"
	"regexp"
	"strings"
)

// This file finds out whether a firewall lets through what its rules name, one by one,
// and stops the rest: whether all that anybody needs is named can't be known.

// letsOne is a rule by which a TCP connection of an instance to some address or port is
// accepted, or of users to some port; empty: there is none, or the probe is of what
// everybody needs. Rules are written by nft or iptables.
func (l *lab) letsOne(p *probe, h hook, rules []string) string {
	outward, hypothetical := p.wanted() && h.name == "forward", p.users && l.ours
	if !outward && !hypothetical {
		return ""
	}
	for _, rule := range rules {
		if p.users && h.name == "forward" && !strings.Contains(rule, l.Bridge) {
			continue // it is about what somebody else forwards
		}
		named := ruleNamed.MatchString(rule) || !p.users && ruleAddress.MatchString(rule)
		if named && ruleAccepts.MatchString(rule) && !ruleOther.MatchString(rule) && begins(rule) &&
			l.concerns(rule, p.users) && (p.users || l.leadsOut(rule)) {
			return plainRule(rule)
		}
	}
	return ""
}

var (
	ruleAccepts  = regexp.MustCompile(`(?:^|\s)accept\b|-j ACCEPT\b`)
	ruleOther    = regexp.MustCompile(`\b(?:udp|icmp\w*|ipv6-icmp|sctp|esp|gre|igmp)\b|ct status|--ctstate DNAT`)
	ruleNamed    = regexp.MustCompile(`\b[dt]port\b|--dports?\b|multiport|th dport`)
	ruleAddress  = regexp.MustCompile(`\bdaddr\b|(?:^|\s)-d\s`)
	ruleCounters = regexp.MustCompile(`counter packets \d+ bytes \d+ ?|^\[\d+:\d+\] `)
	ruleNew      = regexp.MustCompile(`(?i)\bnew\b`)
	ruleStates   = regexp.MustCompile(`(! )?(?:\bct state|--ctstate|--state) (!= )?(\{[^}]*\}|\S+)`)
	ruleIn       = regexp.MustCompile(`(?:\biif(?:name)? (!= |)|(?:^|\s)(! |)-i )(?:"([^"]+)"|(\S+))`)
	ruleOut      = regexp.MustCompile(`(?:\boif(?:name)? (!= |)|(?:^|\s)(! |)-o )(?:"([^"]+)"|(\S+))`)
)

// plainRule is a rule without what changes with each packet.
func plainRule(rule string) string { return strings.TrimSpace(ruleCounters.ReplaceAllString(rule, "")) }

// concerns says that the devices which a rule names, if any, may be those of the
// packets.
func (l *lab) concerns(rule string, users bool) bool {
	in, out := l.Bridge, l.v4.device()
	if users {
		in, out = out, l.Bridge
	}
	for re, device := range map[*regexp.Regexp]string{ruleIn: in, ruleOut: out} {
		m := re.FindStringSubmatch(rule)
		if m == nil || strings.HasPrefix(m[4], "{") { // a set may have any
			continue
		}
		same := m[3]+m[4] == device || strings.HasSuffix(m[3]+m[4], "*")
		if same != (m[1]+m[2] == "") {
			return false
		}
	}
	return true
}

// begins says that a rule holds for the first packet of a connection too.
func begins(rule string) bool {
	m := ruleStates.FindStringSubmatch(rule)
	return m == nil || m[1]+m[2] != "" || ruleNew.MatchString(m[3])
}

// rulesOf are the rules of a base chain of nftables, and of all chains that it leads to.
func rulesOf(d drop) []string {
	ctx, cancel := context.WithTimeout(context.Background(), nftTimeout)
	defer cancel()
	text, _ := exec.CommandContext(ctx, "nft", "-t", "list", "table", d.family, d.table).Output()
	chains := map[string][]string{}
	name := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if n, ok := strings.CutPrefix(line, "chain "); ok {
			name = strings.TrimSuffix(n, " {")
		} else if line == "}" {
			name = ""
		} else if name != "" {
			chains[name] = append(chains[name], line)
		}
	}
	return reached(chains, d.base)
}

// legacyRulesOf are the same of a chain of iptables-legacy.
func legacyRulesOf(d legacyDrop, base string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), nftTimeout)
	defer cancel()
	text, _ := exec.CommandContext(ctx, d.tool, "-t", d.table, "-S").Output()
	chains := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "-A" {
			chains[f[1]] = append(chains[f[1]], strings.TrimSpace(line))
		}
	}
	return reached(chains, base)
}

var ruleJump = regexp.MustCompile(`(?:\b(?:jump|goto)|-[jg]) ([^\s,}]+)`)

// reached are the rules of the chains that a chain leads to, and its own.
func reached(chains map[string][]string, base string) []string {
	var out []string
	seen := map[string]bool{base: true}
	for next := []string{base}; len(next) > 0; next = next[1:] {
		for _, rule := range chains[next[0]] {
			out = append(out, rule)
			for _, m := range ruleJump.FindAllStringSubmatch(rule, -1) {
				if chains[m[1]] != nil && !seen[m[1]] {
					seen[m[1]] = true
					next = append(next, m[1])
				}
			}
		}
	}
	return out
}
