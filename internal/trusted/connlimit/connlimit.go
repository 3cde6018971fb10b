package connlimit

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Listener is a listener with so many places for open connections. Who comes new
// gets in: where it is full, a connection goes that is idle, or that dawdles, the
// oldest first. A source address has a part of the places at most.
//
// So nobody who holds connections open, or shakes hands slowly, keeps an instance
// from its release.
type Listener struct {
	net.Listener
	max        int
	perAddress int
	now        func() time.Time

	mu      sync.Mutex
	open    int
	all     queues
	sources map[netip.Addr]*source
	changed chan struct{} // closed and replaced when a place may have become free
	closed  bool
}

// source is what one address has.
type source struct {
	open int
	has  queues
}

// phase is what a connection is at.
type phase int

const (
	arriving phase = iota // shakes hands, or sends its first request's header
	working               // its request is read or answered
	idle                  // its request was answered
	phases
)

// queues hold connections by phase, in the order in which they came into it.
type queues [phases]list.List

const (
	// arrivalGrace is how long an arriving connection stays, workGrace one with a
	// request, where all places are taken. Both are far more than is needed.
	arrivalGrace = time.Second
	workGrace    = 10 * time.Second
	// partOfAddress is the part of the places that one address may have.
	partOfAddress = 4
)

// Limit returns a listener of which at most n connections are open at once. The
// HTTP server that serves it tells it of its connections by Observe.
func Limit(l net.Listener, n int) *Listener {
	return &Listener{
		Listener:   l,
		max:        n,
		perAddress: max(1, n/partOfAddress),
		now:        time.Now,
		sources:    map[netip.Addr]*source{},
		changed:    make(chan struct{}),
	}
}

// Accept returns the next connection that has a place. One of an address that has
// its part, all of it at work, is closed.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if p := l.place(c); p != nil {
			return p, nil
		}

		_ = c.Close()
		if l.isClosed() {
			return nil, net.ErrClosed
		}
	}
}

// place finds a place for c, and waits for one if need be. It returns nil where
// there is none to be had.
func (l *Listener) place(c net.Conn) *placed {
	addr := addressOf(c)
	for {
		l.mu.Lock()

		victim, wait, refused := l.makeRoom(addr)
		if victim == nil && !wait && !refused {
			p := l.enter(c, addr)
			l.mu.Unlock()
			return p
		}
		changed := l.changed
		l.mu.Unlock()

		switch {
		case refused:
			return nil
		case victim != nil:
			_ = victim.Close()
		default:
			select {
			case <-changed:
			case <-time.After(arrivalGrace / 4): // something may have grown old
			}
		}
	}
}

// makeRoom decides about one more connection of addr, under l.mu: whom to close
// first, to wait, to refuse, or neither.
func (l *Listener) makeRoom(addr netip.Addr) (victim *placed, wait, refused bool) {
	if l.closed {
		return nil, false, true
	}

	if s := l.sources[addr]; s != nil && s.open >= l.perAddress {
		victim = s.has.victim(l.now())
		return victim, false, victim == nil
	}

	if l.open >= l.max {
		victim = l.all.victim(l.now())
		return victim, victim == nil, false
	}

	if l.open >= l.max/4*3 { // the last quarter is for those who come
		victim = l.all.oldest(idle)
	}

	return victim, false, false
}

// victim is the connection that goes first, or nil.
func (q *queues) victim(now time.Time) *placed {
	if p := q.oldest(idle); p != nil {
		return p
	}

	if p := q.oldest(arriving); p != nil && now.Sub(p.since) > arrivalGrace {
		return p
	}

	if p := q.oldest(working); p != nil && now.Sub(p.since) > workGrace {
		return p
	}
	return nil
}

func (q *queues) oldest(ph phase) *placed {
	if e := q[ph].Front(); e != nil {
		return e.Value.(*placed)
	}
	return nil
}

// placed is a connection that has a place.
type placed struct {
	net.Conn
	l      *Listener
	source *source
	addr   netip.Addr

	// Guarded by l.mu.
	left   bool
	phase  phase
	since  time.Time
	inAll  *list.Element
	inHere *list.Element // of its source
}

func (l *Listener) enter(c net.Conn, addr netip.Addr) *placed {
	s := l.sources[addr]
	if s == nil {
		s = &source{}
		l.sources[addr] = s
	}

	p := &placed{
		Conn:   c,
		l:      l,
		source: s,
		addr:   addr,
	}
	l.open++
	s.open++
	p.queue(arriving)
	return p
}

// queue puts the connection at the end of a phase's queues, under l.mu.
func (p *placed) queue(ph phase) {
	p.phase = ph
	p.since = p.l.now()
	p.inAll = p.l.all[ph].PushBack(p)
	p.inHere = p.source.has[ph].PushBack(p)
}

func (p *placed) unqueue() {
	p.l.all[p.phase].Remove(p.inAll)
	p.source.has[p.phase].Remove(p.inHere)
}

// Close closes the connection and frees its place, once.
func (p *placed) Close() error {
	l := p.l

	l.mu.Lock()
	if !p.left {
		p.left = true
		p.unqueue()
		l.open--
		if p.source.open--; p.source.open == 0 {
			delete(l.sources, p.addr)
		}
		l.wake()
	}
	l.mu.Unlock()

	return p.Conn.Close()
}

// wake lets whoever waits look again, under l.mu.
func (l *Listener) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Observe is the HTTP server's word (its ConnState) on what a connection is at.
func (l *Listener) Observe(c net.Conn, state http.ConnState) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}

	p, ok := c.(*placed)
	if !ok {
		return
	}

	ph := working
	switch state {
	case http.StateActive:
	case http.StateIdle:
		ph = idle
	default:
		return
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if p.left {
		return
	}

	p.unqueue()
	p.queue(ph)

	if ph == idle && l.open >= l.max {
		l.wake()
	}
}

func (l *Listener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// Close ends accepting; connections stay.
func (l *Listener) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		l.wake()
	}
	l.mu.Unlock()

	return l.Listener.Close()
}

// addressOf is by what the places of a client are counted.
func addressOf(c net.Conn) netip.Addr {
	if c.RemoteAddr() == nil {
		return netip.Addr{}
	}

	return Source(Peer(c.RemoteAddr().String()))
}

// Peer is the address of a peer, as net/http names it; the zero one where none can
// be read.
func Peer(remote string) netip.Addr {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr()
}

// Source is the address by which a client is counted: an IPv6 client has as many
// addresses as it likes in its network of 64 bits.
func Source(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a
	}

	network, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return network.Addr()
}
