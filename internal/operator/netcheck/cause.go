package netcheck

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// cause is what stands in the way of a probe.
type cause struct {
	text string
	mend []string // commands
}

// explain makes a failed probe again and watches what becomes of it. Nil if it
// works by now.
func (l *lab) explain(ctx context.Context, p *probe) *cause {
	tracer, err := startTracer(ctx)
	if err == nil {
		defer tracer.stop()
	}
	before, paths := readLegacy(ctx), counted("IPReversePathFilter")
	failed := p.try(ctx)
	if failed == nil {
		return nil
	}
	time.Sleep(50 * time.Millisecond) // the kernel tells of a drop after it

	if tracer != nil {
		if drops := tracer.drops(); len(drops) > 0 {
			return l.dropped(p, drops[0])
		}
	}
	if c := l.setting(p, failed, counted("IPReversePathFilter") > paths); c != nil {
		return c
	}
	if drops := readLegacy(ctx).since(before); len(drops) > 0 {
		slices.SortFunc(drops, func(a, b legacyDrop) int { return l.suspicion(p, a) - l.suspicion(p, b) })
		return l.droppedByLegacy(p, drops[0])
	}
	return l.unknown(p, failed)
}

// suspicion sorts what ended packets: others of this machine are counted as well,
// and the probe's pass some chains only.
func (l *lab) suspicion(p *probe, d legacyDrop) int {
	passed := "FORWARD"
	if p.Name == InstanceCAS || p.Name == UsersIPv6 {
		passed = "INPUT"
	}
	switch d.chain {
	case passed:
		return 0
	case "FORWARD", "INPUT", "OUTPUT":
		return 2
	}
	return 1 // a chain of somebody's own, which any may lead to
}

// dropped says what to do about a rule of nftables.
func (l *lab) dropped(p *probe, d drop) *cause {
	hook := hookOf(d)
	c := &cause{text: "the firewall drops it while it is " + hook.doing + ": " + d.String()}
	allow := l.allow(p, hook, d.iif, d.oif)
	if d.family == "bridge" {
		allow = []match{{nft: fmt.Sprintf("meta %s %q", hook.bridge, l.Bridge)}}
	}
	ipt := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[d.family]
	switch {
	case d.table == "firewalld" && installed("firewall-cmd") && !p.users:
		c.mend = []string{"firewall-cmd --permanent --zone=trusted --add-interface=" + l.Bridge, "firewall-cmd --reload"}
	case d.table == "firewalld" && installed("firewall-cmd"):
		c.mend = []string{fmt.Sprintf("firewall-cmd --permanent --add-port=%d/tcp", p.to.Port()), "firewall-cmd --reload"}
	case ipt != "" && installed("ufw") && hasChain(d, "ufw-user-forward", "ufw6-user-forward"):
		c.mend = l.ufw(p, hook)
	case ipt != "" && d.base == strings.ToUpper(d.base) && usesNFT(ipt):
		chain := d.base
		if chain == "FORWARD" && hasChain(d, "DOCKER-USER") {
			chain = "DOCKER-USER"
		}
		for _, a := range allow {
			c.mend = append(c.mend, strings.TrimSpace(fmt.Sprintf("%s -t %s -I %s %s -j ACCEPT", ipt, d.table, chain, a.iptables)))
		}
	default:
		for _, a := range allow {
			c.mend = append(c.mend, strings.TrimSpace(fmt.Sprintf("nft insert rule %s %s %s %s accept", d.family, d.table, d.base, a.nft)))
		}
	}
	return c
}

// droppedByLegacy says what to do about a rule of iptables-legacy.
func (l *lab) droppedByLegacy(p *probe, d legacyDrop) *cause {
	base := d.chain
	if base != strings.ToUpper(base) || strings.Contains(base, "-") {
		base = "FORWARD" // a chain of somebody's own: most are of this one
		if p.Name == InstanceCAS || p.Name == UsersIPv6 {
			base = "INPUT"
		}
	}
	hook := hooks[strings.ToLower(base)]
	c := &cause{text: "the firewall drops it while it is " + hook.doing + ": " + d.String()}
	for _, a := range l.allow(p, hook, l.Bridge, l.Bridge) {
		c.mend = append(c.mend, strings.TrimSpace(fmt.Sprintf("%s -t %s -I %s %s -j ACCEPT", d.tool, d.table, base, a.iptables)))
	}
	return c
}

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
}

// hookOf asks nft where the base chain is hooked in.
func hookOf(d drop) hook {
	out, _ := exec.Command("nft", "list", "chain", d.family, d.table, d.base).Output()
	_, after, _ := strings.Cut(string(out), " hook ")
	if h, ok := hooks[orElse(strings.Fields(after + " ?")[0], "?")]; ok {
		return h
	}
	return hook{"?", "passing", "ibrname"}
}

// match selects packets in the words of either tool.
type match struct{ nft, iptables string }

// allow is what has to be accepted at a hook.
func (l *lab) allow(p *probe, h hook, iif, oif string) []match {
	proto := "tcp"
	if p.Name == InstanceDNS {
		proto = "udp"
	}
	switch h.name {
	case "forward":
		return []match{
			{fmt.Sprintf("iifname %q", l.Bridge), "-i " + l.Bridge},
			{fmt.Sprintf("oifname %q", l.Bridge), "-o " + l.Bridge},
		}
	case "input":
		m := match{fmt.Sprintf("%s dport %d", proto, p.to.Port()), fmt.Sprintf("-p %s --dport %d", proto, p.to.Port())}
		if p.users {
			return []match{m}
		}
		return []match{{fmt.Sprintf("iifname %q %s", l.Bridge, m.nft), fmt.Sprintf("-i %s %s", l.Bridge, m.iptables)}}
	case "output":
		return []match{{fmt.Sprintf("oifname %q", oif), "-o " + oif}}
	}
	if iif == "" {
		return []match{{fmt.Sprintf("oifname %q", oif), "-o " + oif}}
	}
	if p.users {
		return []match{{fmt.Sprintf("iifname %q %s dport %d", iif, proto, p.to.Port()), fmt.Sprintf("-i %s -p %s --dport %d", iif, proto, p.to.Port())}}
	}
	return []match{{fmt.Sprintf("iifname %q", iif), "-i " + iif}}
}

func (l *lab) ufw(p *probe, h hook) []string {
	switch {
	case h.name == "forward":
		return []string{"ufw route allow in on " + l.Bridge, "ufw route allow out on " + l.Bridge}
	case p.users:
		return []string{fmt.Sprintf("ufw allow %d/tcp", p.to.Port())}
	}
	return []string{fmt.Sprintf("ufw allow in on %s to any port %d", l.Bridge, p.to.Port())}
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
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

// setting finds a setting of the kernel that explains the failure.
func (l *lab) setting(p *probe, failed error, filtered bool) *cause {
	if errors.Is(failed, errNoResolver) {
		return &cause{
			text: "this machine names no name server that an instance could reach: /etc/resolv.conf has only such as this machine alone reaches, or none over IPv4",
			mend: []string{"name one there: nameserver ADDRESS"},
		}
	}
	if p.Name != InstanceCAS && p.to.Addr().Is4() {
		for _, name := range []string{"net/ipv4/ip_forward", "net/ipv4/conf/" + l.Bridge + "/forwarding", "net/ipv4/conf/" + l.uplink + "/forwarding"} {
			if sysctl(name) == "0" {
				return &cause{
					text: "forwarding is off: " + dotted(name) + " is 0, set by another program since",
					mend: []string{"sysctl -w " + dotted(name) + "=1"},
				}
			}
		}
	}
	if route := outOf(l.Instance); route != l.Bridge {
		return &cause{
			text: fmt.Sprintf("this machine's rules send what is for instances (%s) out of %s instead of %s: a VPN's ip rule, most likely", l.Subnet, orElse(route, "nowhere"), l.Bridge),
			mend: []string{fmt.Sprintf("ip rule add to %s lookup main priority 1", l.Subnet)},
		}
	}
	if !p.users && outOf(p.to.Addr()) == "" {
		return &cause{text: fmt.Sprintf("this machine has no route to %s", p.to.Addr()), mend: []string{"ip route add " + p.to.Addr().String() + " via GATEWAY"}}
	}
	if filtered {
		return &cause{
			text: fmt.Sprintf("the kernel's reverse path filter (rp_filter) drops it: this machine would answer by another device than %s", l.uplink),
			mend: []string{"sysctl -w net.ipv4.conf.all.rp_filter=2", fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", l.Bridge)},
		}
	}
	used, err1 := strconv.Atoi(sysctl("net/netfilter/nf_conntrack_count"))
	limit, err2 := strconv.Atoi(sysctl("net/netfilter/nf_conntrack_max"))
	if err1 == nil && err2 == nil && used >= limit {
		return &cause{
			text: fmt.Sprintf("the kernel's table of connections is full: %d of nf_conntrack_max %d", used, limit),
			mend: []string{fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 4*limit)},
		}
	}
	return nil
}

// unknown says all that is known where nothing explains it.
func (l *lab) unknown(p *probe, failed error) *cause {
	if errors.Is(failed, syscall.ECONNREFUSED) && p.Name == InstanceCAS {
		return &cause{
			text: fmt.Sprintf("nothing listens at %s: the CAS's instances' API listens elsewhere", p.to),
			mend: []string{fmt.Sprintf("cupel up --cas-instances 0.0.0.0:%d", p.to.Port())},
		}
	}
	hint := ""
	if sysctl("net/bridge/bridge-nf-call-iptables") == "1" {
		hint = "; rules of iptables judge what stays on the bridge, too: net.bridge.bridge-nf-call-iptables is 1"
	}
	return &cause{
		text: fmt.Sprintf("no rule of nftables or iptables, and no setting that the check knows, says why: %v%s", failed, hint),
		mend: []string{"look where it ends: tcpdump -ni any host " + p.to.Addr().String()},
	}
}

// outOf is the device that leads to an address; empty: none does.
func outOf(a netip.Addr) string {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return ""
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	return link.Attrs().Name
}

func sysctl(name string) string {
	b, _ := os.ReadFile("/proc/sys/" + name)
	return strings.TrimSpace(string(b))
}

func dotted(name string) string { return strings.ReplaceAll(name, "/", ".") }

// counted reads one of the kernel's counters of /proc/net/netstat, which has lines
// in pairs: names, then values.
func counted(name string) uint64 {
	b, _ := os.ReadFile("/proc/thread-self/net/netstat")
	lines := strings.Split(string(b), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		if at := slices.Index(strings.Fields(lines[i]), name); at >= 0 {
			if values := strings.Fields(lines[i+1]); at < len(values) {
				n, _ := strconv.ParseUint(values[at], 10, 64) // the kernel's own
				return n
			}
		}
	}
	return 0
}
