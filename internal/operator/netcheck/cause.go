package netcheck

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"cupel.dev/cupel/internal/wording"
)

// cause is what stands in the way of a probe.
type cause struct {
	text    string
	mend    []string // commands
	unknown bool     // it isn't known whether anybody needs what it stops
}

// explain makes a failed probe again and watches what becomes of it. Nil if it
// works by now.
func (l *lab) explain(ctx context.Context, p *probe) *cause {
	tracer, err := startTracer(ctx)
	if err == nil {
		defer tracer.stop()
	}

	before := readLegacy(ctx)
	filtered := netstat("IPReversePathFilter")
	escaped := l.untranslated()

	l.forgetGateway()
	failed := p.try(ctx)
	if failed == nil {
		return nil
	}

	p.stalls = errors.Is(failed, errStalled)

	var seen traced
	if tracer != nil {
		l.catchUp(ctx, tracer)
		seen = tracer.seen(l.ID, append([]uint16{p.to.Port(), instancePort}, l.AppPorts...)...)
	}

	// What is most certain comes first: rules that the trace shows, then where routes and rules
	// lead, then settings, and last rules of which only the counters moved.
	after := readLegacy(ctx)

	counted := func(does legacyDoes, last sight) []stop { return l.suspects(p, before, after, does, last) }
	if !p.here {
		if stops := append(stopsOf(seen.untracked), counted(untracks, sight{})...); len(stops) > 0 {
			return l.untracked(p, stops)
		}
	}

	if stops := stopsOf(seen.drops); len(stops) > 0 {
		return l.dropped(p, stops[:1])
	}

	if c := l.elsewhere(p, failed, append(stopsOf(seen.elsewhere), counted(leads, sight{})...)); c != nil {
		return c
	}
	if c := l.setting(p, failed, netstat("IPReversePathFilter") > filtered); c != nil {
		return c
	}

	last := seen.last
	if p.stalls {
		last = sight{} // it was another packet that got lost
	}

	if stops := counted(ends, last); len(stops) > 0 {
		return l.dropped(p, stops)
	}

	if l.untranslated() != escaped {
		return &cause{
			text: "what an instance sends leaves this machine with the instance's own address, which nobody outside can answer: another program's rule keeps it from being translated",
			mend: []string{"look for rules of the nat tables that accept it first: nft list ruleset"},
		}
	}

	return l.unexplained(p, failed, seen.last)
}

// stopsOf are all that is known of what nftables told.
func stopsOf(drops []drop) []stop {
	var out []stop

	for _, d := range drops {
		out = append(out, d.stop())
	}

	return out
}

// blocked says what to do about one thing that is in the way, or about several of which the
// kernel tells only that it may be each.
func (l *lab) blocked(p *probe, what string, stops []stop) *cause {
	var texts []string

	c := &cause{}
	for _, s := range stops {
		texts = append(texts, s.text)
		c.mend = append(c.mend, l.let(p, s)...)
	}

	texts = unique(texts)
	c.mend = unique(c.mend)
	if len(texts) > 1 {
		what += ", by one of these or more"
	}

	c.text = what + ": " + strings.Join(texts, "; ")
	return c
}

// untracked says what to do about rules by which the kernel doesn't follow a connection, and
// so translates no address of it.
func (l *lab) untracked(p *probe, stops []stop) *cause {
	c := l.blocked(p, "the kernel doesn't follow this connection, so its addresses are not translated", stops)

	if !p.wanted() {
		return c
	}

	// By what users send cupeld itself may have answered them: it wouldn't be followed
	// from the middle on.
	stops = slices.DeleteFunc(stops, func(s stop) bool { return l.isInner(s.packet.iif) })

	for _, port := range l.publicPorts() {
		users := &probe{users: true, to: netip.AddrPortFrom(l.v4.here, port)}
		c.mend = unique(append(c.mend, l.blocked(users, "", stops).mend...))
	}

	return c
}

// elsewhere says that another program gets what the probe sends. Where that answers it
// may be as it shall be, as a proxy is. Nil: nobody does.
func (l *lab) elsewhere(p *probe, failed error, stops []stop) *cause {
	text := fmt.Sprintf("this machine's rules lead it elsewhere, where nothing answers (%s)", wording.Words(failed))
	other := errors.Is(failed, errOther)
	if other {
		text = "not known: another program answers instead, as a proxy of this machine's does"
	}

	switch {
	case len(stops) > 0:
		c := l.blocked(p, text, stops)
		c.unknown = other
		return c
	case other:
		return &cause{text: text, unknown: true}
	}
	return nil
}

// dropped says what to do about rules or policies that end packets.
func (l *lab) dropped(p *probe, stops []stop) *cause {
	s := stops[0]

	c := l.blocked(p, "the firewall drops it while it is "+s.at.doing, stops)
	if one := l.listsClients(p, s); one != "" {
		return listed(one, c.text)
	}

	if one := l.letsOne(p, s); one != "" {
		l.weigh(c, p, one, stops)
	}

	return c
}

// wanted says that a probe stands for whatever an app may want of the world.
func (p *probe) wanted() bool { return p.Name == InstanceOutside }

// weigh says that it isn't known whether anybody needs what is stopped, since the
// firewall lets through what its rules name, such as one.
func (l *lab) weigh(c *cause, p *probe, one string, stops []stop) {
	c.unknown = true

	if p.users {
		to := ""
		if ruleSource.MatchString(one) {
			to = ", to clients by their addresses"
			c.mend = l.blocked(p.forClients(), "", stops).mend
		}

		c.text = fmt.Sprintf("not known: no app has a public port yet, and this machine's firewall opens ports one by one%s, as by %q. It stops port %d: %s", to, one, p.to.Port(), c.text)
		return
	}

	c.text = fmt.Sprintf("not known: this machine's firewall lets instances out to what its rules name, as by %q, and that may be all that they need. It stops others: %s. For one of them: cupel check --to HOST:PORT", one, c.text)
	asked := *p
	asked.Name = InstanceTo
	c.mend = asked.named(l.blocked(&asked, "", stops).mend)
}

// forClients is a probe of those clients that a person names.
func (p *probe) forClients() *probe {
	asked := *p
	asked.clients = match{"ip saddr CLIENTS", "-s CLIENTS"}
	if p.to.Addr().Is6() {
		asked.clients.nft = "ip6 saddr CLIENTS"
	}

	return &asked
}

// weighPorts says that it isn't known whether instances need other ports outside than the
// one that they reach.
func (l *lab) weighPorts(world, other *probe) {
	if !world.OK || other.Cause == "" {
		return
	}

	world.OK = false
	world.Unknown = true
	world.Cause = fmt.Sprintf("not known: this machine's firewall lets instances out to port %d, but not to each, and which others your apps need can't be known. It stops port %d: %s. For one that they need: cupel check --to HOST:PORT",
		world.to.Port(), other.to.Port(), strings.TrimPrefix(other.Cause, "not known: "))
	world.Mend = other.named(other.Mend)
}

// named has a mend be for what a person names, instead of the probe's own address and port.
func (p *probe) named(mend []string) []string {
	host := regexp.MustCompile(regexp.QuoteMeta(p.to.Addr().String()) + `\b`)
	port := regexp.MustCompile(fmt.Sprintf(`\b((?:[ds])?port) %d\b`, p.to.Port()))

	var out []string
	for _, m := range mend {
		out = append(out, port.ReplaceAllString(host.ReplaceAllString(m, "HOST"), "$1 PORT"))
	}

	return out
}

// unexplained says all that is known where nothing explains it.
func (l *lab) unexplained(p *probe, failed error, seen sight) *cause {
	if errors.Is(failed, syscall.ECONNREFUSED) && p.Name == InstanceCAS {
		return &cause{
			text: fmt.Sprintf("nothing listens at %s: the CAS's instances' API listens elsewhere", p.to),
			mend: []string{fmt.Sprintf("cupel up --cas-instances 0.0.0.0:%d", p.to.Port())},
		}
	}

	if errors.Is(failed, syscall.ECONNREFUSED) && p.Name == InstanceTo {
		c := &cause{text: fmt.Sprintf("it is let through, but refused: nothing listens at %s", p.to)}
		if l.isHere(p.to.Addr()) {
			c.mend = []string{fmt.Sprintf("have the program listen on all addresses, or on %s, not on 127.0.0.1 alone", l.Gateway)}
		} else {
			c.mend = []string{"start what shall answer there, or ask for another port"}
		}
		return c
	}

	hint := ""
	last := seen.String()
	if last != "" {
		hint = "; it was seen last " + last
	} else if p.to.Addr().Is4() {
		hint = "; nothing of it was seen to arrive here: a rule of ebtables or arptables, or of tc, may end it before"
	}

	if sysctl("net/bridge/bridge-nf-call-iptables") == "1" {
		hint += "; rules of iptables judge what stays on the bridge, too: net.bridge.bridge-nf-call-iptables is 1"
	}

	if p.Name == InstanceTo && !l.isHere(p.to.Addr()) && strings.HasPrefix(last, "leaving") {
		return &cause{
			text: fmt.Sprintf("nothing of this machine stops it, but nothing answers (%s): it was seen last %s", wording.Words(failed), last),
			mend: []string{"see whether this machine itself reaches " + p.to.String() + "; if so, what lies between judges by port or address"},
		}
	}

	return &cause{
		text: fmt.Sprintf("the check found no rule of nftables or iptables, nor a setting, that says why: %s%s", wording.Words(failed), hint),
		mend: []string{"look where it ends: tcpdump -ni any host " + p.to.Addr().String()},
	}
}
