package netcheck

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// legacyTable is a table of iptables-legacy or ip6tables-legacy.
type legacyTable struct{ tool, table string }

// legacyRule is a rule or policy in such a table that may stop packets.
type legacyRule struct {
	legacyTable

	chain string
	rule  string // empty: the chain's policy
	does  legacyDoes
}

// legacyDoes is what a rule does with a packet.
type legacyDoes string

const (
	ends     legacyDoes = "ends it"
	untracks legacyDoes = "keeps the kernel from following its connection"
	leads    legacyDoes = "leads it elsewhere"
)

// String is the rule as a person reads it.
func (r legacyRule) String() string {
	if r.rule == "" {
		return "policy DROP of " + r.tool + "'s chain " + r.chain + " (table " + r.table + ")"
	}
	return "the rule " + r.rule + " of " + r.tool + " (table " + r.table + ")"
}

// legacy is what iptables-legacy has, whose packets nftables can't trace.
type legacy struct {
	counted map[legacyRule]uint64 // packets
	chains  map[legacyTable]map[string][]string
}

// readLegacy asks the tools for the tables that this machine has.
func readLegacy(ctx context.Context) legacy {
	out := legacy{map[legacyRule]uint64{}, map[legacyTable]map[string][]string{}}

	for plain, file := range map[string]string{"iptables": "ip_tables_names", "ip6tables": "ip6_tables_names"} {
		names, _ := os.ReadFile("/proc/thread-self/net/" + file)
		if len(strings.Fields(string(names))) == 0 {
			continue // the tool itself would load the module
		}

		tool := plain + "-legacy"
		if !installed(tool) && !usesNFT(plain) {
			tool = plain
		}

		if text, err := exec.CommandContext(ctx, tool+"-save", "-c").Output(); err == nil {
			out.parse(tool, string(text))
		}
	}

	return out
}

var (
	legacyPolicy = regexp.MustCompile(`^:(\S+) DROP \[(\d+):`)
	legacyLine   = regexp.MustCompile(`^\[(\d+):\d+\] (-A (\S+).*)$`)
	legacyTarget = regexp.MustCompile(`.* -j (DROP|REJECT|NOTRACK|CT --notrack|DNAT|REDIRECT|TPROXY)\b`)
)

var legacyTargets = map[string]legacyDoes{
	"DROP":         ends,
	"REJECT":       ends,
	"NOTRACK":      untracks,
	"CT --notrack": untracks,
	"DNAT":         leads,
	"REDIRECT":     leads,
	"TPROXY":       leads,
}

// parse reads what a tool's save -c prints.
func (l legacy) parse(tool, text string) {
	var in legacyTable
	chains := map[string][]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			in = legacyTable{tool, name}
			chains = map[string][]string{}
			l.chains[in] = chains
		} else if m := legacyPolicy.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseUint(m[2], 10, 64) // digits
			l.counted[legacyRule{legacyTable: in, chain: m[1], does: ends}] = n
		} else if m := legacyLine.FindStringSubmatch(line); m != nil {
			rule, chain := m[2], m[3]
			chains[chain] = append(chains[chain], rule)
			if to := legacyTarget.FindStringSubmatch(rule); to != nil {
				n, _ := strconv.ParseUint(m[1], 10, 64)
				l.counted[legacyRule{in, chain, rule, legacyTargets[to[1]]}] += n
			}
		}
	}
}

// since are the rules and policies that counted packets since before, of what they may do.
func (l legacy) since(before legacy, does legacyDoes) []legacyRule {
	var out []legacyRule
	for r, n := range l.counted {
		if r.does == does && n > before.counted[r] {
			out = append(out, r)
		}
	}

	slices.SortFunc(out, func(a, b legacyRule) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// chainsAfter are the chains of iptables that a probe's packet may pass after it was seen
// last.
func (p *probe) chainsAfter(last sight) []string {
	within := "FORWARD"
	if p.here {
		within = "INPUT"
	}

	switch last.chain {
	case "arriving":
		return []string{"PREROUTING", within}
	case "sent":
		return []string{"OUTPUT", "POSTROUTING"}
	case "forwarded":
		return []string{"POSTROUTING"}
	case "":
		return []string{"PREROUTING", within, "OUTPUT", "POSTROUTING"}
	}
	return nil
}

// legacyPriorities are those of enum nf_ip_hook_priorities (linux/netfilter_ipv4.h): where a
// table of iptables is among the chains of nftables.
var legacyPriorities = map[string]int{
	"raw":      -300,
	"mangle":   -150,
	"nat":      -100,
	"filter":   0,
	"security": 50,
}

// suspects are those of the rules which counted packets since before that may have stopped
// the probe's: others of this machine are counted as well.
func (l *lab) suspects(p *probe, before, after legacy, does legacyDoes, last sight) []stop {
	var out []stop
	for _, r := range after.since(before, does) {
		if strings.HasPrefix(r.tool, "ip6") != p.to.Addr().Is6() {
			continue
		}

		chains := after.chains[r.legacyTable]
		for _, base := range p.chainsAfter(last) {
			if r.chain != base && !slices.ContainsFunc(reached(chains, base), func(rule string) bool { return strings.HasPrefix(rule, "-A "+r.chain+" ") }) {
				continue
			}

			s := stop{
				text:   r.String(),
				rule:   r.rule,
				chains: chains,
				base:   base,
			}
			s.at = hook{
				name:     strings.ToLower(base),
				doing:    doing[strings.ToLower(base)],
				family:   "ip",
				priority: legacyPriorities[r.table],
			}

			where := s.where(r.chain, slices.Index(chains[r.chain], r.rule)+1)
			s.accept = func(m match) string { return iptables(r.tool, r.table, where, m) }

			for _, k := range l.passes(p, s.at, last) {
				if l.concerns(r.rule, k) {
					s.packet = k
					out = append(out, s)
				}
			}
		}
	}

	return out
}

// passes are the packets of a probe that come to a place after they were seen last: where
// that isn't known, both of who calls and of what answers.
func (l *lab) passes(p *probe, at hook, last sight) []packet {
	if last.chain != "" {
		k := last.packet
		switch {
		case at.name == "forward" && l.isInner(k.iif):
			k.oif = l.v4.device()
		case at.name == "forward":
			k.oif = l.Bridge
		}
		return []packet{k}
	}

	const own = "lo" // of this machine itself, which no rule is asked about
	inner, outer := l.Bridge, l.v4.device()

	switch {
	case p.users && p.here:
		inner, outer = own, l.v6.device()
	case p.here:
		outer = own
	}

	var all []packet
	for _, k := range []packet{{iif: inner, oif: outer}, {iif: outer, oif: inner}} {
		switch at.name {
		case "prerouting", "input":
			k.oif = ""
		case "output", "postrouting":
			k.iif = ""
		}

		if k.iif != own && k.oif != own {
			all = append(all, k)
		}
	}

	return all
}
