package node

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
)

// An app that doesn't accept connections is looked at after so long, and again
// every so often: where it does listen instead is what its owner wants to know.
const (
	listenAfter = 1500 * time.Millisecond
	listenEvery = 2 * time.Second
	// An app that listens nowhere yet is still starting, for as long as many take.
	silentAfter = 10 * time.Second
)

// lookAround finds out where an app that isn't healthy listens instead, and whether it
// is this machine that can't reach it.
func (n *Node) lookAround(ctx context.Context, i *instance) {
	n.mu.Lock()
	id := i.rec.Spec.ID
	ip := i.rec.IP
	port := i.rec.Spec.Port
	started := i.rec.StartedAt
	due := i.health != manager.HealthHealthy && !started.IsZero() && n.cfg.Now().Sub(started) >= listenAfter &&
		time.Since(i.lookedAround) >= listenEvery
	n.mu.Unlock()
	if !due {
		return
	}

	at, tried, err := listening(n.dir("netns", string(id)), netip.AddrPortFrom(ip, port))
	cutOff := tried == nil
	full := timedOut(tried)
	if cutOff || full {
		still := !n.answers(ctx, i) // else it just began to
		cutOff = cutOff && still
		full = full && still
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	i.lookedAround = time.Now()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		n.cfg.Logger.Warn("can't see where an app listens", "instance", id, "error", err)
		return
	}

	was := i.elsewhere
	i.elsewhere = elsewhere(at, port)
	if cutOff || full {
		i.elsewhere = &misplaced{port: port, cutOff: cutOff, full: full}
	}
	if len(at) == 0 && n.cfg.Now().Sub(started) < silentAfter {
		i.elsewhere = nil
	}
	if was.same(i.elsewhere) {
		return
	}
	n.publishStatus(i)
}

// errNotAsked says that nothing listens on the port that should be tried.
var errNotAsked = errors.New("nothing listens on that port")

// listening returns where TCP is listened in a network namespace, and how a connection to
// the address asked went that was made within it. A connection that nobody accepts times
// out: the kernel answers nothing while as many wait as the app has room for.
func listening(netns string, asked netip.AddrPort) (at []netip.AddrPort, tried, err error) {
	tried = errNotAsked
	err = Within(netns, func() (err error) {
		at, err = listeningHere()
		if slices.ContainsFunc(at, func(a netip.AddrPort) bool { return a.Port() == asked.Port() }) {
			tried = connect(asked)
		}
		return err
	})
	return at, tried, err
}

// Within calls f on a thread that is in the network namespace mounted at path, and ends
// with it.
func Within(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }()

	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err != nil {
			err = fmt.Errorf("enter network namespace: %w", err)
		} else {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// connect connects from this thread's namespace, and hangs up.
func connect(addr netip.AddrPort) error {
	c, err := net.DialTimeout("tcp4", addr.String(), time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

func timedOut(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// listeningHere asks for this thread's namespace.
func listeningHere() ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open("/proc/thread-self/net/" + table)
		if os.IsNotExist(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}

		at, err := parseListening(f)
		_ = f.Close()
		if err != nil {
			return nil, err
		}
		out = append(out, at...)
	}

	return out, nil
}

// parseListening reads the listening sockets of /proc/net/tcp or tcp6 (proc_net_tcp in
// the kernel's documentation): a header, then a line a socket with its number, its own
// address, the other's, and its state.
func parseListening(r io.Reader) ([]netip.AddrPort, error) {
	const listens = "0A"
	var out []netip.AddrPort
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[3] != listens {
			continue
		}

		addr, port, _ := strings.Cut(f[1], ":")
		raw, err := hex.DecodeString(addr)
		if err != nil || len(raw)%4 != 0 {
			continue
		}

		for word := range slices.Chunk(raw, 4) { // each in the order of the host, which is little-endian here
			slices.Reverse(word)
		}

		ip, ok := netip.AddrFromSlice(raw)
		number, err := strconv.ParseUint(port, 16, 16)
		if ok && err == nil {
			out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(number)))
		}
	}
	return out, lines.Err()
}

// misplaced is where an app listens instead of on its port of all addresses.
type misplaced struct {
	at   []netip.AddrPort
	port uint16

	// It listens where it should, and
	cutOff bool // this machine can't reach it
	full   bool // takes no connection of its own container's either
}

// elsewhere judges where an app listens that doesn't accept connections on port. Nil:
// it listens there, and something else is the matter.
func elsewhere(at []netip.AddrPort, port uint16) *misplaced {
	m := &misplaced{port: port}
	for _, a := range at {
		if a.Port() != port {
			continue
		}
		if !a.Addr().IsLoopback() && a.Addr() != netip.IPv6Unspecified() {
			return nil
		}
		m.at = append(m.at, a)
	}

	if len(m.at) == 0 {
		m.at = slices.Clone(at)
	}
	slices.SortFunc(m.at, netip.AddrPort.Compare)
	m.at = slices.Compact(m.at)
	return m
}

func (m *misplaced) same(o *misplaced) bool {
	if m == nil || o == nil {
		return m == o
	}
	return m.port == o.port && m.cutOff == o.cutOff && m.full == o.full && slices.Equal(m.at, o.at)
}

// mostShown bounds how many of an app's addresses are named.
const mostShown = 4

// problem says where the app listens, and where it should.
func (m *misplaced) problem() *problem.Error {
	switch {
	case m.full:
		return problem.New(problem.Unavailable, problem.RuleUnhealthy, "the app listens on port %d and takes no connection, not from within its container either: it doesn't accept those that wait", m.port).
			Want("an app that goes on accepting connections").
			Fix("see 'cupel logs' for what keeps it from that, mend it and deploy again; an app that has only too much to do gets more --instances")
	case m.cutOff:
		return problem.New(problem.Unavailable, problem.RuleUnhealthy, "the app listens on port %d, but its machine can't reach it: something there stands in the way, as a firewall's rule", m.port).
			Want("connections from the machine to its instances let through").
			Fix("run 'cupel check' on that machine: it names what stands in the way, and the mend")
	}

	var at []string
	for _, a := range m.at[:min(len(m.at), mostShown)] {
		at = append(at, a.String())
	}
	where := strings.Join(at, " and ")
	if more := len(m.at) - mostShown; more > 0 {
		where += fmt.Sprintf(" and %d more", more)
	}

	e := problem.New(problem.Unavailable, problem.RuleUnhealthy, "the app listens on %s, not on port %d", where, m.port).
		Want("port %d of all addresses", m.port).
		Fix("let the app listen on port %d, or name its port: --port PUBLIC:%d", m.port, m.firstPort())

	switch {
	case len(m.at) == 0:
		e.Actual = fmt.Sprintf("the app listens on no port yet, and should on port %d", m.port)
		e.Fix("see 'cupel logs'; let the app listen on port %d of all addresses, or name its port with --port PUBLIC:CONTAINER. "+
			"A deployment gives an app %s for that and then stops it, and no flag gives it longer: if its start takes longer, let it listen first and get ready after that",
			m.port, problem.Duration(manager.DefaultLimits().Health))
	case m.at[0].Port() == m.port && slices.Contains(m.at, netip.AddrPortFrom(netip.IPv6Unspecified(), m.port)):
		e.Actual = fmt.Sprintf("the app listens on %s for IPv6 alone, and is reached over IPv4", where)
		e.Fix("let the app listen on 0.0.0.0 too, port %d", m.port)
	case m.at[0].Port() == m.port:
		e.Actual = fmt.Sprintf("the app listens on %s, not on all addresses", where)
		e.Fix("let the app listen on 0.0.0.0, port %d: connections come from outside of its container", m.port)
	}
	return e
}

// firstPort is the first of the app's ports that others can reach, or else the first.
func (m *misplaced) firstPort() uint16 {
	for _, a := range m.at {
		if !a.Addr().IsLoopback() {
			return a.Port()
		}
	}
	if len(m.at) > 0 {
		return m.at[0].Port()
	}
	return m.port
}
