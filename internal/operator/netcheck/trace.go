package netcheck

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// drop is the end of a packet in nftables.
type drop struct {
	packet

	family, table string
	chain         string // that holds the rule, or whose policy it was
	base          string // chain with a hook that the way began in
	rule          string // empty: the base chain's policy
	handle        string // nftables' number of the rule
}

// String says what ended it.
func (d drop) String() string {
	if d.rule == "" {
		return fmt.Sprintf("policy drop of the nftables chain %s %s %s", d.family, d.table, d.chain)
	}
	return fmt.Sprintf("the rule %q in the nftables chain %s %s %s", d.rule, d.family, d.table, d.chain)
}

// packet is a packet as nftables shows it at some place. What isn't known there, or isn't
// so of its kind, is empty.
type packet struct {
	iif, oif     string
	proto        string // tcp, udp, icmp, arp
	sport, dport string
}

// parsePacket reads what nft shows of a packet, or of a rule's surroundings.
func parsePacket(text string) packet {
	var p packet
	for _, dev := range traceDevice.FindAllStringSubmatch(text, -1) {
		if dev[1] == "iif" {
			p.iif = dev[2]
		} else {
			p.oif = dev[2]
		}
	}

	switch m := tracePorts.FindStringSubmatch(text); {
	case m != nil:
		p.proto = m[1]
		p.sport = m[2]
		p.dport = m[3]
	case strings.Contains(text, " icmp"):
		p.proto = "icmp"
	case !strings.Contains(text, "ip saddr ") && !strings.Contains(text, "ip6 saddr "):
		p.proto = "arp"
	}

	return p
}

// of says that a packet goes to or comes from one of the ports, or has none.
func (p packet) of(ports []uint16) bool {
	return p.sport == "" || p.comesFrom(ports) || slices.ContainsFunc(ports, func(n uint16) bool { return p.dport == fmt.Sprint(n) })
}

// comesFrom says that a packet comes from one of the ports.
func (p packet) comesFrom(ports []uint16) bool {
	return slices.ContainsFunc(ports, func(n uint16) bool { return p.sport == fmt.Sprint(n) })
}

// tracer reads `nft monitor trace`.
type tracer struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	out bytes.Buffer
}

// startTracer returns when the kernel tells it of traced packets.
func startTracer(ctx context.Context) (*tracer, error) {
	t := &tracer{cmd: exec.CommandContext(ctx, "nft", "-a", "monitor", "trace"), done: make(chan struct{})}
	pipe, err := t.cmd.StdoutPipe()

	if err != nil {
		return nil, err
	}

	if err := t.cmd.Start(); err != nil {
		return nil, fmt.Errorf("trace packets: %w", err)
	}

	go func() {
		defer close(t.done)
		buf := make([]byte, 1<<16)
		for {
			n, err := pipe.Read(buf)
			t.mu.Lock()

			if t.out.Len() < 8<<20 {
				t.out.Write(buf[:n])
			}
			t.mu.Unlock()
			if err != nil {
				_, _ = io.Copy(io.Discard, pipe)
				return
			}
		}
	}()

	for end := time.Now().Add(nftTimeout); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if subscribed(t.cmd.Process.Pid) {
			return t, nil
		}
	}

	t.stop()
	return nil, fmt.Errorf("trace packets: nft monitor doesn't begin")
}

// subscribed reports whether a process listens to NFNLGRP_NFTRACE, group 9 of
// netfilter's netlink sockets (family 12), by /proc/net/netlink.
func subscribed(pid int) bool {
	b, _ := os.ReadFile("/proc/thread-self/net/netlink")

	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[1] != "12" || f[2] != strconv.Itoa(pid) {
			continue
		}

		if groups, err := strconv.ParseUint(f[3], 16, 32); err == nil && groups&(1<<8) != 0 {
			return true
		}
	}
	return false
}

// seen is what became of packets so far that have one of the ports, in the check of that
// ID.
func (t *tracer) seen(id string, ports ...uint16) traced {
	t.mu.Lock()
	defer t.mu.Unlock()
	return parseTrace(t.out.String(), id, ports...)
}

// catchUp waits until a tracer has read of all that was sent before: of a packet that is
// sent last, too.
func (l *lab) catchUp(ctx context.Context, t *tracer) {
	c, err := (&net.Dialer{}).DialContext(ctx, "udp4", netip.AddrPortFrom(l.Instance, 9).String()) // discard
	if err == nil {
		defer func() { _ = c.Close() }()
		_, err = c.Write([]byte("cupel check"))
	}

	if err != nil {
		time.Sleep(patience) // where nothing can be sent that is seen
		return
	}

	from, _ := netip.ParseAddrPort(c.LocalAddr().String()) // the kernel's own words
	last := fmt.Sprintf("udp sport %d udp dport 9 ", from.Port())

	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		t.mu.Lock()
		read := strings.Contains(t.out.String(), last)
		t.mu.Unlock()
		if read {
			return
		}
	}
}

// stop ends the tracer's process.
func (t *tracer) stop() {
	_ = t.cmd.Process.Kill()
	<-t.done
	_ = t.cmd.Wait()
}

// What `nft monitor trace` prints.
var (
	traceLine      = regexp.MustCompile(`^trace id (\S+) (\S+) (\S+) (\S+) (.*)$`)
	traceDevice    = regexp.MustCompile(`\b(iif|oif) "([^"]+)"`)
	traceHandle    = regexp.MustCompile(` (?:# handle|rule handle) (\d+)`)
	traceRule      = regexp.MustCompile(`^(?:rule (.*)|unknown) \(verdict drop\)\s*$`)
	tracePorts     = regexp.MustCompile(`\b(tcp|udp) sport (\d+) (?:tcp|udp) dport (\d+)`)
	traceElsewhere = regexp.MustCompile(`^rule (.*\b(?:dnat|redirect|tproxy|DNAT|REDIRECT|TPROXY)\b.*) \(verdict \w+\)\s*$`)
	traceUntracked = regexp.MustCompile(`^rule (.*(?:notrack|NOTRACK|"CT").*) \(verdict (?:continue|accept)\)\s*$`)
)

// traced is what the kernel told of packets.
type traced struct {
	drops     []drop
	untracked []drop // rules by which the kernel follows no connection
	elsewhere []drop // rules by which somebody else gets it
	last      sight  // the furthest that a packet got
}

// sight is where a packet was seen: in one of the chains of the check's own that every
// packet passes; empty: nowhere.
type sight struct {
	packet

	chain string
}

// stages are those chains in the order in which packets pass them, and what is said of a
// packet that was seen there last.
var stages = []struct{ chain, words string }{
	{"arriving", "arriving from %s"},
	{"sent", "being sent by this machine, to %[2]s"},
	{"forwarded", "being forwarded from %s to %s"},
	{"received", "on its way into this machine, from %s"},
	{"leaving", "leaving by %[2]s"},
}

// stage is a sight's place in stages; -1: nowhere.
func (s sight) stage() int {
	for i, stage := range stages {
		if stage.chain == s.chain {
			return i
		}
	}
	return -1
}

// String says it in a sentence.
func (s sight) String() string {
	if s.stage() < 0 {
		return ""
	}
	return fmt.Sprintf(stages[s.stage()].words+"%.0[2]s", s.iif, s.oif)
}

// parseTrace reads what nft monitor prints. A packet's way through a base chain begins
// with a line that shows it; lines of its rules follow.
func parseTrace(text, id string, ports ...uint16) traced {
	type passage struct{ id, family, table string }

	began := map[passage]drop{}
	var out traced

	for line := range strings.Lines(text) {
		m := traceLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}

		w := passage{m[1], m[2], m[3]}
		chain := m[4]
		rest := m[5]

		if shown, ok := strings.CutPrefix(rest, "packet:"); ok {
			d := drop{
				packet: parsePacket(shown),
				family: w.family,
				table:  w.table,
				base:   chain,
			}
			began[w] = d
			if w.table == checkTable(id) && d.sport != "" && d.of(ports) {
				out.last = further(out.last, sight{d.packet, chain}, ports)
			}

			continue
		}

		d, ok := began[w]
		if !ok {
			d = drop{family: w.family, table: w.table, base: chain}
		}

		d.chain = chain
		if w.table == checkTable(id) || !d.of(ports) {
			continue // the check's own, which drops only what it caught; or an earlier connection's
		}

		if h := traceHandle.FindStringSubmatch(rest); h != nil {
			d.handle = h[1]
			rest = traceHandle.ReplaceAllString(rest, "")
		}

		if strings.HasPrefix(rest, "policy drop") {
			out.drops = append(out.drops, d)
		} else if r := traceRule.FindStringSubmatch(rest); r != nil {
			d.rule = cmp.Or(plainRule(r[1]), "one that is gone")
			out.drops = append(out.drops, d)
		} else if r := traceUntracked.FindStringSubmatch(rest); r != nil {
			d.rule = plainRule(r[1])
			out.untracked = append(out.untracked, d)
		} else if r := traceElsewhere.FindStringSubmatch(rest); r != nil && w.table != "cupel_"+id { // the balancer's
			d.rule = plainRule(r[1])
			out.elsewhere = append(out.elsewhere, d)
		}
	}

	return out
}

// further is the sight of the two that is further on the way there and back: what is sent
// once more comes late, but isn't the last that was seen.
func further(a, b sight, ports []uint16) sight {
	rank := func(s sight) int {
		if s.stage() >= 0 && s.comesFrom(ports) {
			return len(stages) + s.stage()
		}
		return s.stage()
	}

	if rank(b) > rank(a) {
		return b
	}
	return a
}
