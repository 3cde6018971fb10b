package netcheck

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
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
	family, table string
	chain         string // that holds the rule, or whose policy it was
	base          string // chain with a hook that the way began in
	rule          string // empty: the base chain's policy
	iif, oif      string // devices, as far as they were known by then
}

func (d drop) String() string {
	if d.rule == "" {
		return fmt.Sprintf("policy drop of the nftables chain %s %s %s", d.family, d.table, d.chain)
	}
	return fmt.Sprintf("the rule %q in the nftables chain %s %s %s", d.rule, d.family, d.table, d.chain)
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
	t := &tracer{cmd: exec.CommandContext(ctx, "nft", "monitor", "trace"), done: make(chan struct{})}
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

// seen is what became of packets so far. Its last one is of the check of that ID, and of
// one of the ports.
func (t *tracer) seen(id string, ports ...uint16) traced {
	t.mu.Lock()
	defer t.mu.Unlock()
	return parseTrace(t.out.String(), id, ports...)
}

func (t *tracer) stop() {
	_ = t.cmd.Process.Kill()
	<-t.done
	_ = t.cmd.Wait()
}

var (
	traceLine      = regexp.MustCompile(`^trace id (\S+) (\S+) (\S+) (\S+) (.*)$`)
	traceDevice    = regexp.MustCompile(`\b(iif|oif) "([^"]+)"`)
	traceRule      = regexp.MustCompile(`^(?:rule (.*)|unknown rule handle \d+) \(verdict drop\)\s*$`)
	tracePorts     = regexp.MustCompile(`\b(?:tcp|udp) sport (\d+) (?:tcp|udp) dport (\d+)`)
	traceElsewhere = regexp.MustCompile(`^rule (.*\b(?:dnat|redirect|tproxy|DNAT|REDIRECT|TPROXY)\b.*) \(verdict \w+\)\s*$`)
	traceUntracked = regexp.MustCompile(`^rule (.*(?:notrack|NOTRACK|"CT").*) \(verdict (?:continue|accept)\)\s*$`)
)

// traced is what the kernel told of packets.
type traced struct {
	drops     []drop
	untracked []drop // rules by which the kernel follows no connection
	elsewhere []drop // rules by which somebody else gets it
	last      string // where a packet was seen last, in words; empty: nowhere
}

// places are the chains of the check's own that every packet passes.
var places = map[string]string{
	"arriving":  "arriving from %s",
	"received":  "on its way into this machine, from %s",
	"forwarded": "being forwarded from %s to %s",
	"sent":      "being sent by this machine, to %[2]s",
	"leaving":   "leaving by %[2]s",
}

// parseTrace reads what nft monitor prints. A packet's way through a base chain begins
// with a line that shows it; lines of its rules follow.
func parseTrace(text, id string, ports ...uint16) traced {
	type way struct{ id, family, table string }
	began := map[way]drop{}
	var out traced
	for line := range strings.Lines(text) {
		m := traceLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		w, chain, rest := way{m[1], m[2], m[3]}, m[4], m[5]
		if packet, ok := strings.CutPrefix(rest, "packet:"); ok {
			d := drop{family: w.family, table: w.table, base: chain}
			for _, dev := range traceDevice.FindAllStringSubmatch(packet, -1) {
				if dev[1] == "iif" {
					d.iif = dev[2]
				} else {
					d.oif = dev[2]
				}
			}
			began[w] = d
			if place := places[chain]; place != "" && w.table == table(id) && ofPort(packet, ports) {
				out.last = fmt.Sprintf(place+"%.0[2]s", d.iif, d.oif)
			}
			continue
		}
		d, ok := began[w]
		if !ok {
			d = drop{family: w.family, table: w.table, base: chain}
		}
		d.chain = chain
		if w.table == table(id) {
			continue // which drops only what it caught
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

// ofPort says that a packet goes to or comes from one of the ports.
func ofPort(packet string, ports []uint16) bool {
	m := tracePorts.FindStringSubmatch(packet)
	return m != nil && slices.ContainsFunc(ports, func(p uint16) bool { return m[1] == fmt.Sprint(p) || m[2] == fmt.Sprint(p) })
}
