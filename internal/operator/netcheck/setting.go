package netcheck

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// setting finds a setting of the kernel that explains the failure.
func (l *lab) setting(p *probe, failed error, filtered bool) *cause {
	if errors.Is(failed, errNoResolver) {
		return &cause{
			text: "this machine names no name server that an instance could reach: /etc/resolv.conf has only such as this machine alone reaches, or none over IPv4",
			mend: []string{"name one there: nameserver ADDRESS"},
		}
	}

	if !p.here {
		for _, name := range []string{
			"net/ipv4/ip_forward",
			"net/ipv4/conf/" + l.Bridge + "/forwarding",
			"net/ipv4/conf/" + l.v4.device() + "/forwarding",
		} {
			if sysctl(name) == "0" {
				return &cause{
					text: "forwarding is off: " + dotted(name) + " is 0, set by another program since",
					mend: []string{"sysctl -w " + dotted(name) + "=1"},
				}
			}
		}
	}

	for _, w := range p.ways {
		if c := l.misled(w); c != nil {
			return c
		}
	}

	if link := l.v4.dev; !p.here && !l.v4.own && link.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
		return &cause{
			text: fmt.Sprintf("%s, by which this machine goes to the world, has no carrier: what is behind it is down", l.v4.device()),
			mend: []string{"bring up what is behind it, or take away the routes that lead there: ip route show table all dev " + l.v4.device()},
		}
	}

	// Strict reverse path forwarding (RFC 3704 section 2.2) is what 1 makes of rp_filter, and
	// loose what 2 does (section 2.4).
	if filtered {
		return &cause{
			text: fmt.Sprintf("the kernel's reverse path filter (rp_filter) drops it: this machine would answer by another device than %s", l.v4.device()),
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

// misled says what routes a packet elsewhere than it has to go. Nil: nothing does.
func (l *lab) misled(w expected) *cause {
	to, err := w.ask()
	d := w.decidedBy()
	if err == nil && (w.device == "" || to.device == w.device) || err != nil && d != nil && d.ending() == "" {
		return nil // led right, or refused for something else than its way
	}

	if l.Subnet.Contains(w.to) {
		if c := l.ledAway(); c != nil {
			return c
		}
	}

	ip := "ip"
	if w.to.Is6() {
		ip = "ip -6"
	}

	if d == nil || err != nil && d.inUsualTable() {
		if c := l.v4.down(); c != nil && w.to.Is4() {
			return c
		}

		c := &cause{
			text: fmt.Sprintf("this machine has no route to %s", w.to),
			mend: []string{fmt.Sprintf("%s route add %s via GATEWAY", ip, w.to)},
		}

		if w.to.Is4() && l.v4.entry == nil {
			c.text += ", nor an IPv4 address that others can use, and instances have IPv4 alone"
			c.mend = []string{"give it an IPv4 address and a route to its network, or name servers to instances that they reach: nameserver ADDRESS in /etc/resolv.conf"}
		}

		if d != nil {
			c.text += ": " + d.String()
		}

		return c
	}

	// A rule or a route of somebody's leads it away: the instances' network goes by the main
	// table again.
	c := &cause{text: fmt.Sprintf("what goes from %s to %s is sent %s: %s", w.from, w.to, cmp.Or(prefixed("out of ", to.device), "nowhere"), d)}
	if w.device != "" {
		c.text = fmt.Sprintf("what goes from %s to %s is sent %s instead of %s: %s", w.from, w.to, cmp.Or(prefixed("out of ", to.device), "nowhere"), w.device, d)
	}

	selector := "from " + l.Subnet.String()
	switch {
	case l.Subnet.Contains(w.to):
		selector = "to " + l.Subnet.String()
	case !l.Subnet.Contains(w.from):
		selector = "from " + w.from.String()
	}

	c.mend = []string{fmt.Sprintf("%s rule add %s lookup main priority %d", ip, selector, d.ahead())}
	return c
}

// prefixed is empty where s is.
func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// sysctl reads a setting of the kernel; empty: this kernel doesn't have it.
func sysctl(name string) string {
	b, _ := os.ReadFile("/proc/sys/" + name)
	return strings.TrimSpace(string(b))
}

// dotted is a setting's name as sysctl(8) writes it.
func dotted(name string) string { return strings.ReplaceAll(name, "/", ".") }

// netstat reads one of the kernel's counters of /proc/net/netstat, which has lines
// in pairs: names, then values.
func netstat(name string) uint64 {
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
