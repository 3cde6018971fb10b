package netcheck

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
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

// drops are the ends of packets that were seen so far.
func (t *tracer) drops() []drop {
	t.mu.Lock()
	defer t.mu.Unlock()
	return parseTrace(t.out.String())
}

func (t *tracer) stop() {
	_ = t.cmd.Process.Kill()
	<-t.done
	_ = t.cmd.Wait()
}

var (
	traceLine   = regexp.MustCompile(`^trace id (\S+) (\S+) (\S+) (\S+) (.*)$`)
	traceDevice = regexp.MustCompile(`\b(iif|oif) "([^"]+)"`)
	traceRule   = regexp.MustCompile(`^(?:rule (.*)|unknown rule handle \d+) \(verdict drop\)\s*$`)
)

// parseTrace finds the drops in what nft monitor prints. A packet's way through a
// base chain begins with a line that shows it; lines of its rules follow.
func parseTrace(text string) []drop {
	type way struct{ id, family, table string }
	began := map[way]drop{}
	var out []drop
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
			continue
		}
		d, ok := began[w]
		if !ok {
			d = drop{family: w.family, table: w.table, base: chain}
		}
		d.chain = chain
		if strings.HasPrefix(rest, "policy drop") {
			out = append(out, d)
		} else if r := traceRule.FindStringSubmatch(rest); r != nil {
			d.rule = orElse(strings.TrimSpace(r[1]), "one that is gone")
			out = append(out, d)
		}
	}
	return out
}
