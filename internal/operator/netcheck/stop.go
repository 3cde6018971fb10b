package netcheck

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// This file reads, around what stopped a packet, what is needed to let others like it past
// that very place.

// hook is where in the kernel a chain of rules is.
type hook struct {
	name     string
	doing    string
	family   string
	priority int
}

// doing says what becomes of a packet at a hook (nft(8), CHAINS).
var doing = map[string]string{
	"forward":     "forwarded (forward)",
	"input":       "on its way into this machine (input)",
	"output":      "on its way out of this machine (output)",
	"prerouting":  "arriving (prerouting)",
	"postrouting": "leaving (postrouting)",
	"ingress":     "arriving (ingress)",
	"egress":      "leaving (egress)",
}

// tracks says that the kernel knows by there which connection a packet is of.
func (at hook) tracks() bool {
	// Conntrack looks at packets at this priority (enum nf_ip_hook_priorities,
	// linux/netfilter_ipv4.h).
	const conntrack = -200 // NF_IP_PRI_CONNTRACK
	switch {
	case at.family == "bridge" || at.family == "netdev" || at.family == "arp":
		return false
	case at.name == "prerouting" || at.name == "output":
		return at.priority > conntrack
	}
	return true
}

// stop is a rule or a chain's policy that keeps a packet from where it has to go.
type stop struct {
	text   string // in words
	rule   string // empty: a policy
	at     hook
	packet packet
	chains map[string][]string // the rules of the table's chains
	base   string              // the chain that the packet's way began in
	// accept is the command that lets past it what matches.
	accept func(match) string
	// tool is the firewall whose own commands do that; empty: accept does.
	tool string
}

// rules are those of the base chain and of all chains that it leads to.
func (s stop) rules() []string { return reached(s.chains, s.base) }

// stop is what nft knows of a packet's end.
func (d drop) stop() stop {
	listed := linesOf("nft", "-a", "-y", "-t", "list", "table", d.family, d.table)
	s := stop{
		text:   d.String(),
		rule:   d.rule,
		at:     hook{family: d.family, name: "?", doing: "passing"},
		packet: d.packet,
		chains: map[string][]string{},
		base:   d.base,
	}

	number := s.place(d, listed)

	ipt := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[d.family]
	has := func(chain string) bool {
		return slices.ContainsFunc(listed, func(line string) bool { return strings.HasPrefix(line, "chain "+chain+" {") })
	}

	switch {
	case d.table == "firewalld" && installed("firewall-cmd"):
		s.tool = "firewalld"
	case ipt != "" && installed("ufw") && (has("ufw-user-forward") || has("ufw6-user-forward")):
		s.tool = "ufw"
	}

	switch {
	case ipt != "" && d.isIPTables() && usesNFT(ipt) && exec.Command(ipt, "-t", d.table, "-S").Run() == nil:
		where := s.where(d.chain, number)
		if d.base == "FORWARD" && has("DOCKER-USER") && (d.rule == "" || strings.HasPrefix(d.chain, "DOCKER") && d.chain != "DOCKER-USER") {
			where = "-I DOCKER-USER" // which Docker leads to first, and keeps
		}
		s.accept = func(m match) string { return iptables(ipt, d.table, where, m) }
	case number > 0:
		s.accept = func(m match) string {
			return strings.Join(strings.Fields(fmt.Sprintf("nft insert rule %s %s %s handle %s %s accept", d.family, d.table, d.chain, d.handle, m.nft)), " ")
		}
	default:
		verb := "insert"
		if d.rule == "" && !s.leaps() {
			verb = "add" // the policy comes after the last rule
		}
		s.accept = func(m match) string {
			return strings.Join(strings.Fields(fmt.Sprintf("nft %s rule %s %s %s %s accept", verb, d.family, d.table, d.base, m.nft)), " ")
		}
	}

	return s
}

// place reads the chains of the table that a packet ended in, and where the base chain is
// in the kernel. It returns the number of the rule that ended it in its chain; 0: a policy.
func (s *stop) place(d drop, listed []string) int {
	chain := ""
	number := 0
	for _, line := range listed {
		text, handle, _ := strings.Cut(line, " # handle ")
		if m := tableHook.FindStringSubmatch(line); m != nil && chain == d.base {
			s.at.name = m[1]
			s.at.doing = cmp.Or(doing[m[1]], s.at.doing)
			s.at.priority, _ = strconv.Atoi(m[2]) // digits
		} else if name, ok := strings.CutPrefix(text, "chain "); ok {
			chain = strings.TrimSuffix(name, " {")
		} else if line == "}" {
			chain = ""
		} else if chain != "" && handle != "" {
			s.chains[chain] = append(s.chains[chain], text)
			if chain == d.chain && handle == d.handle {
				number = len(s.chains[chain])
			}
		}
	}

	return number
}

// tableHook is how nft lists a base chain's hook.
var tableHook = regexp.MustCompile(`^type \w+ hook (\w+) .*priority (-?\d+)`)

// isIPTables says that a rule is where iptables has its own.
func (d drop) isIPTables() bool {
	tables := []string{"filter", "nat", "mangle", "raw", "security"}
	base := doing[strings.ToLower(d.base)] != "" && d.base == strings.ToUpper(d.base)
	return base && slices.Contains(tables, d.table)
}

// where is iptables' word for the place right before what stops packets: the rule of that
// number, or the base chain's policy.
func (s stop) where(chain string, number int) string {
	switch {
	case number > 1:
		return fmt.Sprintf("-I %s %d", chain, number)
	case s.rule == "" && !s.leaps():
		return "-A " + s.base
	}
	return "-I " + chain
}

// leaps says that the base chain's last rules may be left out.
func (s stop) leaps() bool {
	return slices.ContainsFunc(s.chains[s.base], func(rule string) bool { return ruleLeap.MatchString(rule) })
}

// ruleLeap is a rule that doesn't come back: goto.
var ruleLeap = regexp.MustCompile(`\bgoto |-g `)

// iptables is the command that accepts what matches, at a place.
func iptables(tool, table, where string, m match) string {
	return strings.Join(strings.Fields(fmt.Sprintf("%s -t %s %s %s -j ACCEPT", tool, table, where, m.iptables)), " ")
}

// linesOf is what a command prints, line by line.
func linesOf(command ...string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), nftTimeout)
	defer cancel()

	text, _ := exec.CommandContext(ctx, command[0], command[1:]...).Output()
	var out []string
	for line := range strings.Lines(string(text)) {
		out = append(out, strings.TrimSpace(line))
	}

	return out
}

// ruleJump is a rule that leads to another chain.
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

// installed says that a program is in the PATH.
func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// usesNFT says that the tool of that name programs nftables.
func usesNFT(tool string) bool {
	out, err := exec.Command(tool, "-V").Output()
	return err == nil && strings.Contains(string(out), "nf_tables")
}
