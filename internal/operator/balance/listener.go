package balance

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"cupel.dev/cupel/internal/trusted/connlimit"
)

const (
	dialTimeout = 5 * time.Second
	// keepAlive finds peers that vanished without a word.
	keepAlive = 30 * time.Second
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
	// The connection ends by its own peers, by idleness or with its endpoint, not with a
	// request's context; the dial also where the flow loses its place.
	dialling, cancel := context.WithCancel(context.Background())
	defer cancel()
	fl := &flow{
		port:     f.port,
		app:      e.app,
		from:     connlimit.Source(from),
		endpoint: e.addr,
		client:   client,
		giveUp:   cancel,
	}
	in, crowd := f.flows.enter(fl)
	if crowd != nil {
		f.full(crowd.String())
		f.log.Debug("too many connections", "app", crowd.app, "client", crowd.client, "open", crowd.open)
	}
	if !in {
		reset(client)
		return
	}
	defer f.flows.leave(fl)
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	up, err := dialer.DialContext(dialling, "tcp4", e.addr.String())
	if err != nil {
		f.log.Debug("instance refuses", "port", f.port, "instance", e.instance, "error", err)
		reset(client)
		return
	}
	if f.flows.connect(fl, up.(*net.TCPConn)) {
		fl.run()
	}
}

// flow is one proxied connection.
type flow struct {
	port     uint16
	app      string
	from     netip.Addr // by what the client is counted
	endpoint netip.AddrPort
	client   *net.TCPConn
	giveUp   func() // ends the dial of the instance

	// Guarded by flows.mu.
	instance *net.TCPConn // nil: it is being dialled
	ended    bool         // its place is another's
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

// reset ends both of its connections with RST, or the dial of the second, under flows.mu.
func (fl *flow) reset() {
	fl.giveUp()
	reset(fl.client)
	if fl.instance != nil {
		reset(fl.instance)
	}
}

// reset ends a connection with RST.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
