package balance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dialTimeout = 5 * time.Second
	// keepAlive finds peers that vanished without a word.
	keepAlive = 30 * time.Second
	// sweepEvery is how often flows are looked at for idleness.
	sweepEvery = 15 * time.Second
)

// front holds one public port and proxies what arrives at it.
type front struct {
	port     uint16
	ln       *net.TCPListener
	affinity *affinity
	flows    *flows
	log      *slog.Logger
	running  *sync.WaitGroup // the balancer's
	full     func(message string)
}

// listen binds a public port on all addresses of both families.
func listen(ctx context.Context, port uint16) (*net.TCPListener, error) {
	lc := net.ListenConfig{KeepAlive: keepAlive}
	ln, err := lc.Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, portTaken(port, holder(port))
	}
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

// serve accepts until the listener is closed.
func (f *front) serve() {
	defer f.running.Done()
	for pause := time.Duration(0); ; {
		conn, err := f.ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: others must end first
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			f.log.Warn("accept", "port", f.port, "error", err)
			time.Sleep(pause)
			continue
		}
		pause = 0
		f.running.Go(func() { f.handle(conn) })
	}
}

func (f *front) close() { _ = f.ln.Close() }

// handle proxies one connection. What can't be served is reset, as a closed
// port would: the client learns at once.
func (f *front) handle(client *net.TCPConn) {
	from, ok := netip.AddrFromSlice(client.RemoteAddr().(*net.TCPAddr).IP)
	e, served := f.affinity.pick(f.port, from, func(e endpoint) { f.flows.begin(e.addr.Addr()) })
	if served {
		defer f.flows.done(e.addr.Addr())
	}
	if !ok || !served {
		reset(client)
		return
	}
	if !f.flows.enter() {
		f.full(fmt.Sprintf("%d connections over IPv6, or from this machine, are open at once: more are refused. "+
			"cupel up --balancer connections=%d lets more in", f.flows.limit(), 2*f.flows.limit()))
		reset(client)
		return
	}
	defer f.flows.leave()
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	// The connection ends by its own peers, by idleness or with its endpoint,
	// not with a request's context.
	up, err := dialer.DialContext(context.Background(), "tcp4", e.addr.String())
	if err != nil {
		f.log.Debug("instance refuses", "port", f.port, "instance", e.instance, "error", err)
		reset(client)
		return
	}
	fl := &flow{port: f.port, endpoint: e.addr, client: client, instance: up.(*net.TCPConn)}
	f.flows.add(fl)
	defer f.flows.drop(fl)
	fl.run()
}

// flow is one proxied connection.
type flow struct {
	port     uint16
	endpoint netip.AddrPort
	client   *net.TCPConn
	instance *net.TCPConn

	// Owned by the sweeper.
	moved   uint64 // bytes received from both ends when last looked at
	movedAt time.Time
}

// run copies both ways until both ends have said all, then closes. On Linux
// the kernel splices between the sockets.
func (fl *flow) run() {
	var both sync.WaitGroup
	both.Go(func() { fl.pump(fl.instance, fl.client) })
	both.Go(func() { fl.pump(fl.client, fl.instance) })
	both.Wait()
	fl.end()
}

func (fl *flow) pump(to, from *net.TCPConn) {
	if _, err := to.ReadFrom(from); err != nil {
		// One end broke; the other must not take what it has for the whole.
		reset(fl.client)
		reset(fl.instance)
		return
	}
	_ = to.CloseWrite()
}

func (fl *flow) end() {
	_ = fl.client.Close()
	_ = fl.instance.Close()
}

// reset ends a connection with RST.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// flows are the proxied connections of all ports, bounded in number and
// idleness.
type flows struct {
	slots chan struct{}
	idle  time.Duration
	now   func() time.Time

	mu   sync.Mutex
	set  map[*flow]struct{}
	open map[netip.Addr]int // connections of each instance, those that are being dialled included
}

func newFlows(limit int, idle time.Duration, now func() time.Time) *flows {
	return &flows{slots: make(chan struct{}, limit), idle: idle, now: now, set: map[*flow]struct{}{}, open: map[netip.Addr]int{}}
}

func (f *flows) enter() bool {
	select {
	case f.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (f *flows) leave() { <-f.slots }

// limit is how many there may be at once.
func (f *flows) limit() int { return cap(f.slots) }

// begin counts a connection to an instance, and done no longer.
func (f *flows) begin(instance netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[instance]++
}

func (f *flows) done(instance netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[instance]--; f.open[instance] == 0 {
		delete(f.open, instance)
	}
}

func (f *flows) of(instance netip.Addr) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open[instance]
}

func (f *flows) add(fl *flow) {
	fl.movedAt = f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set[fl] = struct{}{}
}

func (f *flows) drop(fl *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.set, fl)
}

// closeIf resets the flows that match and returns their number.
func (f *flows) closeIf(match func(*flow) bool) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for fl := range f.set {
		if match(fl) {
			reset(fl.client)
			reset(fl.instance)
			n++
		}
	}
	return n
}

// sweep closes flows on which nothing moved for too long, until ctx ends.
// Deadlines would do it too, but would take the copying out of the kernel.
func (f *flows) sweep(ctx context.Context) {
	tick := time.NewTicker(min(sweepEvery, max(f.idle/4, time.Millisecond)))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := f.now()
		f.closeIf(func(fl *flow) bool {
			if moved := received(fl.client) + received(fl.instance); moved != fl.moved {
				fl.moved, fl.movedAt = moved, now
			}
			return now.Sub(fl.movedAt) > f.idle
		})
	}
}

// received returns how many bytes a connection has taken in since it began.
func received(c *net.TCPConn) (n uint64) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Bytes_received
		}
	})
	return n
}
