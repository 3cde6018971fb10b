package netcheck

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// legacyDrop is a rule or policy of iptables-legacy that ends packets.
type legacyDrop struct {
	tool  string // iptables-legacy, ip6tables-legacy
	table string
	chain string
	rule  string // empty: the chain's policy

	untracks bool // it ends nothing, but the kernel follows no connection by it
}

func (d legacyDrop) String() string {
	if d.rule == "" {
		return "policy DROP of " + d.tool + "'s chain " + d.chain + " (table " + d.table + ")"
	}
	return "the rule " + d.rule + " of " + d.tool + " (table " + d.table + ")"
}

// legacy is how many packets each of them ended. nftables can't trace those.
type legacy map[legacyDrop]uint64

// readLegacy asks the tools for the tables that this machine has.
func readLegacy(ctx context.Context) legacy {
	out := legacy{}
	for tool, file := range map[string]string{"iptables-legacy": "ip_tables_names", "ip6tables-legacy": "ip6_tables_names"} {
		names, _ := os.ReadFile("/proc/thread-self/net/" + file)
		if len(strings.Fields(string(names))) == 0 {
			continue // the tool itself would load the module
		}
		for _, save := range []string{tool + "-save", strings.TrimSuffix(tool, "-legacy") + "-save"} {
			text, err := exec.CommandContext(ctx, save, "-c").Output()
			if err == nil {
				parseLegacy(out, tool, string(text))
				break
			}
		}
	}
	return out
}

var (
	legacyPolicy = regexp.MustCompile(`^:(\S+) DROP \[(\d+):`)
	legacyRule   = regexp.MustCompile(`^\[(\d+):\d+\] (-A (\S+) .*-j (?:DROP|REJECT|NOTRACK|CT --notrack)\b.*)$`)
)

// parseLegacy reads what iptables-save -c prints.
func parseLegacy(into legacy, tool, text string) {
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		} else if m := legacyPolicy.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseUint(m[2], 10, 64) // digits
			into[legacyDrop{tool: tool, table: table, chain: m[1]}] = n
		} else if m := legacyRule.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseUint(m[1], 10, 64)
			into[legacyDrop{tool: tool, table: table, chain: m[3], rule: m[2], untracks: untracks(m[2])}] += n
		}
	}
}

func untracks(rule string) bool {
	return strings.Contains(rule, "-j NOTRACK") || strings.Contains(rule, "-j CT --notrack")
}

// since are the rules and policies that ended packets since before, or untracked
// them.
func (l legacy) since(before legacy) []legacyDrop {
	var out []legacyDrop
	for d, n := range l {
		if n > before[d] {
			out = append(out, d)
		}
	}
	return out
}
