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

	"github.com/cenkalti/backoff/v5"

	"cupel.dev/cupel/internal/trusted/connlimit"
)

const (
	dialTimeout = 5 * time.Second
	// keepAlive finds peers that vanished without a word.
	keepAlive = 30 * time.Second
)

// listener holds one public port and proxies what arrives at it.
type listener struct {
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
func (l *listener) serve() {
	defer l.running.Done()

	pauses := backoff.ExponentialBackOff{InitialInterval: 5 * time.Millisecond, Multiplier: 2, MaxInterval: time.Second}
	for {
		conn, err := l.ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}

		// Out of descriptors: others must end first.
		if err != nil {
			l.log.Warn("accept", "port", l.port, "error", err)
			time.Sleep(pauses.NextBackOff())
			continue
		}

		pauses.Reset()
		l.running.Go(func() { l.handle(conn) })
	}
}

func (l *listener) close() { _ = l.ln.Close() }

// handle proxies one connection. What can't be served is reset, as a closed
// port would: the client learns at once.
func (l *listener) handle(client *net.TCPConn) {
	from, ok := netip.AddrFromSlice(client.RemoteAddr().(*net.TCPAddr).IP)
	e, served := l.affinity.pick(l.port, from, func(e endpoint) { l.flows.begin(e.addr.Addr()) })
	if served {
		defer l.flows.done(e.addr.Addr())
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
		port:     l.port,
		app:      e.app,
		from:     connlimit.Source(from),
		endpoint: e.addr,
		client:   client,
		giveUp:   cancel,
	}

	in, crowd := l.flows.enter(fl)
	if crowd != nil {
		l.full(crowd.String())
		l.log.Debug("too many connections", "app", crowd.app, "client", crowd.client, "open", crowd.open)
	}
	if !in {
		reset(client)
		return
	}
	defer l.flows.leave(fl)

	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	up, err := dialer.DialContext(dialling, "tcp4", e.addr.String())
	if err != nil {
		l.log.Debug("instance refuses", "port", l.port, "instance", e.instance, "error", err)
		reset(client)
		return
	}
	if l.flows.connect(fl, up.(*net.TCPConn)) {
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

// pump copies one way until its sender has said all. The end is passed on (FIN, RFC 9293 section 3.6);
// a connection that broke resets both, so that the other end doesn't take what it has for the whole.
func (fl *flow) pump(to, from *net.TCPConn) {
	if _, err := to.ReadFrom(from); err != nil {
		reset(fl.client)
		reset(fl.instance)
		return
	}
	_ = to.CloseWrite()
}

// end closes both connections.
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

// reset ends a connection with RST instead of FIN: with a linger time of zero, close(2)
// aborts it (socket(7), SO_LINGER; RFC 9293 section 3.10.5).
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
