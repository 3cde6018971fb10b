package netcheck

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"cupel.dev/cupel/internal/plain"
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
	before, filtered, escaped := readLegacy(ctx), counted("IPReversePathFilter"), l.untranslated()
	l.forgetGateway()
	failed := p.try(ctx)
	if failed == nil {
		return nil
	}
	p.stalls = errors.Is(failed, errStalled)
	time.Sleep(50 * time.Millisecond) // the kernel tells of a drop after it

	var seen traced
	if tracer != nil {
		seen = tracer.seen(l.ID, p.to.Port(), instancePort)
	}
	legacy := readLegacy(ctx).since(before)
	if p.translated() {
		if c := l.untracked(p, seen.untracked, legacy); c != nil {
			return c
		}
	}
	if len(seen.drops) > 0 {
		return l.dropped(p, seen.drops[0])
	}
	if c := l.elsewhere(p, failed, seen.elsewhere); c != nil {
		return c
	}
	if c := l.setting(p, failed, counted("IPReversePathFilter") > filtered); c != nil {
		return c
	}
	legacy = slices.DeleteFunc(legacy, func(d legacyDrop) bool { return d.untracks })
	if len(legacy) > 0 {
		slices.SortFunc(legacy, func(a, b legacyDrop) int { return l.suspicion(p, a) - l.suspicion(p, b) })
		return l.droppedByLegacy(p, legacy[0])
	}
	if l.untranslated() != escaped {
		return &cause{
			text: "what an instance sends leaves this machine with the instance's own address, which nobody outside can answer: another program's rule keeps it from being translated",
			mend: []string{"look for rules of the nat tables that accept it first: nft list ruleset"},
		}
	}
	return l.unknown(p, failed, seen.last)
}

// translated says that a probe needs addresses to be translated.
func (p *probe) translated() bool { return !p.here }

// untracked says what to do about rules by which the kernel doesn't follow the
// connection, and so translates no address of it. Nil: there are none.
func (l *lab) untracked(p *probe, rules []drop, legacy []legacyDrop) *cause {
	const why = "the kernel doesn't follow this connection, so its addresses are not translated: "
	if len(rules) > 0 {
		d := rules[0]
		return &cause{text: why + d.String(), mend: l.let(p, d, hookOf(d))}
	}
	for _, d := range legacy {
		if d.untracks {
			return &cause{text: why + d.String(), mend: l.letLegacy(p, d, hooks[strings.ToLower(l.legacyBase(p, d))])}
		}
	}
	return nil
}

// suspicion sorts what ended packets: others of this machine are counted as well,
// and the probe's pass some chains only.
func (l *lab) suspicion(p *probe, d legacyDrop) int {
	passed := "FORWARD"
	switch {
	case p.host:
		passed = "OUTPUT"
	case p.here:
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

// elsewhere says that another program gets what the probe sends. Where that answers it
// may be as it shall be, as a proxy is. Nil: nobody does.
func (l *lab) elsewhere(p *probe, failed error, rules []drop) *cause {
	other := errors.Is(failed, errOther)
	if len(rules) == 0 && !other {
		return nil
	}
	c := &cause{text: fmt.Sprintf("this machine's rules lead it elsewhere, where nothing answers (%s)", plain.Words(failed)), unknown: other}
	if other {
		c.text = "not known: another program answers instead, as a proxy of this machine's does"
	}
	if len(rules) > 0 {
		c.text += ": " + rules[0].String()
		c.mend = l.let(p, rules[0], hookOf(rules[0]))
	}
	return c
}

// dropped says what to do about a rule of nftables.
func (l *lab) dropped(p *probe, d drop) *cause {
	h := hookOf(d)
	c := &cause{text: "the firewall drops it while it is " + h.doing + ": " + d.String(), mend: l.let(p, d, h)}
	rules := rulesOf(d)
	if one := l.listsClients(p, d.rule, rules); one != "" {
		return listed(one, c.text)
	}
	if one := l.letsOne(p, h, rules); one != "" {
		l.weigh(c, p, one, func(p *probe) []string { return l.let(p, d, h) })
	}
	return c
}

// droppedByLegacy says what to do about a rule of iptables-legacy.
func (l *lab) droppedByLegacy(p *probe, d legacyDrop) *cause {
	h := hooks[strings.ToLower(l.legacyBase(p, d))]
	c := &cause{text: "the firewall drops it while it is " + h.doing + ": " + d.String(), mend: l.letLegacy(p, d, h)}
	rules := legacyRulesOf(d, l.legacyBase(p, d))
	if one := l.listsClients(p, d.rule, rules); one != "" {
		return listed(one, c.text)
	}
	if one := l.letsOne(p, h, rules); one != "" {
		l.weigh(c, p, one, func(p *probe) []string { return l.letLegacy(p, d, h) })
	}
	return c
}

// legacyBase is the chain of iptables that a rule's chain is led to from.
func (l *lab) legacyBase(p *probe, d legacyDrop) string {
	if d.chain == strings.ToUpper(d.chain) && !strings.Contains(d.chain, "-") {
		return d.chain
	}
	if d.table == "raw" {
		return "PREROUTING"
	}
	if p.host {
		return "OUTPUT"
	}
	if p.here {
		return "INPUT"
	}
	return "FORWARD" // a chain of somebody's own: most are of this one
}

// wanted says that a probe stands for whatever an app may want of the world.
func (p *probe) wanted() bool { return p.Name == InstanceOutside }

// weigh says that it isn't known whether anybody needs what is stopped, since the
// firewall lets through what its rules name, such as one.
func (l *lab) weigh(c *cause, p *probe, one string, let func(*probe) []string) {
	c.unknown = true
	if p.users {
		c.text = fmt.Sprintf("not known: no app has a public port yet, and this machine's firewall opens ports one by one, as by %q. It stops port %d: %s", one, p.to.Port(), c.text)
		return
	}
	c.text = fmt.Sprintf("not known: this machine's firewall lets instances out to what its rules name, as by %q, and that may be all that they need. It stops others: %s. For one of them: cupel check --to HOST:PORT", one, c.text)
	c.mend = let(&probe{Probe: Probe{Name: InstanceTo}, to: p.to})
	named := strings.NewReplacer(p.to.Addr().String(), "HOST", fmt.Sprintf("port %d", p.to.Port()), "port PORT")
	for i, m := range c.mend {
		c.mend[i] = named.Replace(m)
	}
}

// unknown says all that is known where nothing explains it.
func (l *lab) unknown(p *probe, failed error, last string) *cause {
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
			text: fmt.Sprintf("nothing of this machine stops it, but nothing answers (%s): it was seen last %s", plain.Words(failed), last),
			mend: []string{"see whether this machine itself reaches " + p.to.String() + "; if so, what lies between judges by port or address"},
		}
	}
	return &cause{
		text: fmt.Sprintf("the check found no rule of nftables or iptables, nor a setting, that says why: %s%s", plain.Words(failed), hint),
		mend: []string{"look where it ends: tcpdump -ni any host " + p.to.Addr().String()},
	}
}
