package balance

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// affinity is what the listeners know of who belongs where: a cache of the
// kernel's sets for the clients that come this way, to which this process is
// the only writer.
//
// The kernel is told behind the connection's back, many clients at a time: a
// transaction takes some milliseconds, however small.
type affinity struct {
	kernel *kernel
	log    *slog.Logger
	now    func() time.Time
	queue  chan membership

	mu    sync.Mutex
	ports map[uint16]*portAffinity
}

// portAffinity is who belongs where behind one port.
type portAffinity struct {
	endpoints []endpoint
	clients   map[string]map[netip.Addr]time.Time // set name -> client -> last written
	expired   map[string]time.Time                // set name -> when its clients were last looked through
	turn      int                                 // breaks ties between equally loaded endpoints
}

// set replaces the endpoints of a port and forgets the clients of those that
// left. load returns what the kernel has for an endpoint that is new here: a
// process that takes over finds its predecessor's clients.
func (a *affinity) set(f frontend, load func(set string) []netip.Addr) {
	next := &portAffinity{
		endpoints: f.endpoints,
		clients:   map[string]map[netip.Addr]time.Time{},
		expired:   map[string]time.Time{},
	}

	a.mu.Lock()
	old := a.ports[f.port]
	a.mu.Unlock()

	loaded := map[string][]netip.Addr{}
	for _, e := range f.endpoints {
		for _, set := range []string{e.set4, e.set6} {
			if old == nil || old.clients[set] == nil {
				loaded[set] = load(set) // asks the kernel: not under the lock
			}
		}
	}

	a.mu.Lock()
	defer a.mu.Unlock()

	for _, e := range f.endpoints {
		for _, set := range []string{e.set4, e.set6} {
			if old != nil && old.clients[set] != nil {
				next.clients[set] = old.clients[set]
				continue
			}

			clients := make(map[netip.Addr]time.Time, len(loaded[set]))
			for _, c := range loaded[set] {
				clients[c] = time.Time{} // written again when next seen
			}
			next.clients[set] = clients
		}
	}

	a.ports[f.port] = next
}

// drop forgets a port.
func (a *affinity) drop(port uint16) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.ports, port)
}

// pick returns the endpoint of a client, a new one where it has none. False
// where the port has no endpoints. Picked is told before anybody can change what
// endpoints there are.
func (a *affinity) pick(port uint16, client netip.Addr, picked func(endpoint)) (endpoint, bool) {
	client = client.Unmap().WithZone("")

	e, write, ok := a.lookup(port, client, picked)

	if ok && write {
		a.queue <- membership{e.set(client), client}
	}

	return e, ok
}

// write tells the kernel what is queued, until the queue is closed and empty.
func (a *affinity) write() {
	for first := range a.queue {
		batch := []membership{first}
		for more := true; more && len(batch) < cap(a.queue); {
			select {
			case m, open := <-a.queue:
				if more = open; open {
					batch = append(batch, m)
				}
			default:
				more = false
			}
		}

		if a.kernel.remember(batch) == nil {
			continue
		}

		// One that doesn't go in must not take the others with it: its set is
		// full, or was just deleted. That costs the client its place when this
		// process ends, not the connection.
		for _, m := range batch {
			if err := a.kernel.remember([]membership{m}); err != nil {
				a.log.Debug("client not remembered", "set", m.set, "error", err)
			}
		}
	}
}

// lookup finds a client's endpoint, or picks one. Write tells that the kernel has to hear of it.
func (a *affinity) lookup(port uint16, client netip.Addr, picked func(endpoint)) (e endpoint, write, ok bool) {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()

	// However this ends, picked is called under the lock.
	defer func() {
		if ok {
			picked(e)
		}
	}()

	p := a.ports[port]
	if p == nil || len(p.endpoints) == 0 {
		return endpoint{}, false, false
	}

	for _, e := range p.endpoints {
		last, known := p.clients[e.set(client)][client]
		if !known {
			continue
		}

		// Every use counts, but the kernel hears of it only now and then.
		write := now.Sub(last) > a.kernel.idle/16
		if write {
			p.clients[e.set(client)][client] = now
		}

		return e, write, true
	}

	// A new client goes to the endpoint that has fewest. One whose set is full is served all
	// the same, and not remembered.
	e = p.least(client)
	known := p.clients[e.set(client)]
	if set := e.set(client); len(known) >= int(a.kernel.size) && now.Sub(p.expired[set]) > expireEvery {
		p.expired[set] = now
		a.expire(known, now)
	}

	if len(known) < int(a.kernel.size) {
		known[client] = now
	}

	return e, true, true
}

// least returns the endpoint with the fewest clients of that family, taking
// turns between equals.
func (p *portAffinity) least(client netip.Addr) endpoint {
	p.turn = (p.turn + 1) % len(p.endpoints)

	best := p.endpoints[p.turn]
	for i := range p.endpoints {
		e := p.endpoints[(p.turn+i)%len(p.endpoints)]
		if len(p.clients[e.set(client)]) < len(p.clients[best.set(client)]) {
			best = e
		}
	}

	return best
}

// expireEvery bounds how often a full set is looked through: while it is full, every
// new client would ask for it.
const expireEvery = time.Minute

// members are the clients that the kernel has to know of, of the sets that it lacks.
func (a *affinity) members(has map[string]bool) []membership {
	a.mu.Lock()
	defer a.mu.Unlock()

	var out []membership
	for _, p := range a.ports {
		for set, clients := range p.clients {
			for c := range clients {
				if !has[set] {
					out = append(out, membership{set, c})
				}
			}
		}
	}

	return out
}

// expire forgets clients that the kernel has forgotten. Those read from the
// kernel and not seen since have no time and go as well.
func (a *affinity) expire(clients map[netip.Addr]time.Time, now time.Time) {
	for c, last := range clients {
		if now.Sub(last) > a.kernel.idle {
			delete(clients, c)
		}
	}
}

// set is the set in which a client's address belongs.
func (e endpoint) set(client netip.Addr) string {
	if client.Is4() {
		return e.set4
	}
	return e.set6
}
