package balance

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sweepEvery is how often flows are looked at for idleness.
const sweepEvery = 15 * time.Second

// partOfClient is what the places are divided by: where all are taken, a client of an app
// that has this part of them gets no more.
const partOfClient = 4

// flows are the proxied connections of all ports, bounded in number and
// idleness.
type flows struct {
	limit int
	idle  time.Duration
	now   func() time.Time

	mu   sync.Mutex
	set  map[*flow]struct{} // those that are being dialled included
	apps map[string]*appFlows
	open map[netip.Addr]int // connections of each instance, those that are being dialled included
}

// appFlows are how many connections an app has, and each of its clients.
type appFlows struct {
	open    int
	clients map[netip.Addr]int
}

// newFlows makes an empty set of flows with its limits.
func newFlows(limit int, idle time.Duration, now func() time.Time) *flows {
	return &flows{
		limit: limit,
		idle:  idle,
		now:   now,
		set:   map[*flow]struct{}{},
		apps:  map[string]*appFlows{},
		open:  map[netip.Addr]int{},
	}
}

// crowd is who has most of the places when all are taken.
type crowd struct {
	limit  int
	app    string
	open   int        // connections of the app
	client netip.Addr // that has most of those
	most   int        // connections of that client
}

// String says it for the operator, with what lets more in.
func (c crowd) String() string {
	one := "none of its clients more than half of those"
	if c.most*2 > c.open {
		one = fmt.Sprintf("a single client %d of those", c.most)
	}

	more := fmt.Sprintf("cupel up --balancer connections=%d lets more in", min(2*c.limit, mostConnections))
	if c.limit >= mostConnections {
		more = "There can't be more places"
	}

	return fmt.Sprintf("%d connections over IPv6, or from this machine, are open at once: who has most of them gets no more, and makes room for others. "+
		"App %s has most, %d, and %s. %s", c.limit, c.app, c.open, one, more)
}

// enter gives a flow a place. Where all are taken, the client with most connections, of
// the app with most, makes room by the one that was silent longest, unless the flow is
// its own: then it gets none, and neither does who has its part of all places. So
// neither an app nor a client keeps others out. The crowd is nil where there is room.
func (f *flows) enter(fl *flow) (bool, *crowd) {
	f.mu.Lock()
	defer f.mu.Unlock()

	var c *crowd

	if len(f.set) >= f.limit {
		c = f.crowd(fl.app)
		if mine := f.apps[fl.app]; mine != nil {
			has := mine.clients[fl.from]
			if has >= max(1, f.limit/partOfClient) || fl.app == c.app && has >= c.most {
				return false, c
			}
		}
		f.end(f.mostSilent(c))
	}
	f.set[fl] = struct{}{}

	a := f.apps[fl.app]
	if a == nil {
		a = &appFlows{clients: map[netip.Addr]int{}}
		f.apps[fl.app] = a
	}
	a.open++
	a.clients[fl.from]++

	return true, c
}

// crowd is called under mu, and where there are flows. Of apps that have as many it is
// that of the one who comes.
func (f *flows) crowd(comes string) *crowd {
	app, a := most(f.apps, func(a, b *appFlows) int { return cmp.Compare(a.open, b.open) })
	if own := f.apps[comes]; own != nil && own.open == a.open {
		app, a = comes, own
	}

	client, n := most(a.clients, cmp.Compare[int])
	return &crowd{
		limit:  f.limit,
		app:    app,
		open:   a.open,
		client: client,
		most:   n,
	}
}

// most is an entry with the greatest value.
func most[K comparable, V any](m map[K]V, compare func(a, b V) int) (key K, value V) {
	first := true
	for k, v := range m {
		if first || compare(v, value) > 0 {
			key, value = k, v
			first = false
		}
	}

	return key, value
}

// mostSilent is the flow of a crowd's client on which nothing moved for longest, under mu.
func (f *flows) mostSilent(c *crowd) *flow {
	silent := map[*flow]uint32{}
	for fl := range f.set {
		if fl.app == c.app && fl.from == c.client {
			silent[fl] = fl.silent()
		}
	}

	fl, _ := most(silent, cmp.Compare[uint32])
	return fl
}

// end resets a flow and frees its place, under mu.
func (f *flows) end(fl *flow) {
	fl.reset()
	f.free(fl)
}

// free frees a flow's place, once; under mu.
func (f *flows) free(fl *flow) {
	if fl.ended {
		return
	}

	fl.ended = true
	delete(f.set, fl)

	a := f.apps[fl.app]
	a.open--
	if a.open == 0 {
		delete(f.apps, fl.app)
		return
	}

	a.clients[fl.from]--
	if a.clients[fl.from] == 0 {
		delete(a.clients, fl.from)
	}
}

// leave frees a flow's place, if it still has it.
func (f *flows) leave(fl *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free(fl)
}

// connect gives a flow its instance's end, and closes that where the flow was ended
// meanwhile.
func (f *flows) connect(fl *flow, instance *net.TCPConn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.instance = instance
	fl.movedAt = f.now()

	if fl.ended {
		reset(instance)
	}

	return !fl.ended
}

// begin counts a connection to an instance, from when the instance is picked.
func (f *flows) begin(instance netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[instance]++
}

// done ends what begin began.
func (f *flows) done(instance netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[instance]--
	if f.open[instance] == 0 {
		delete(f.open, instance)
	}
}

// of is how many connections an instance has.
func (f *flows) of(instance netip.Addr) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open[instance]
}

// closeIf resets the flows that match, those that are being dialled included, and returns
// their number.
func (f *flows) closeIf(match func(*flow) bool) int {
	f.mu.Lock()
	defer f.mu.Unlock()

	n := 0
	for fl := range f.set {
		if match(fl) {
			fl.reset()
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
			if fl.instance == nil { // the dial has a limit of its own
				return false
			}

			// What was received so far is compared with what it was at the last look.
			if moved := received(fl.client) + received(fl.instance); moved != fl.moved {
				fl.moved = moved
				fl.movedAt = now
			}

			return now.Sub(fl.movedAt) > f.idle
		})
	}
}

// received returns how many bytes a connection has taken in since it began.
func received(c *net.TCPConn) uint64 { return info(c).Bytes_received }

// lastReceived returns for how many milliseconds a connection has taken in nothing.
func lastReceived(c *net.TCPConn) uint32 { return info(c).Last_data_recv }

// info is what the kernel keeps of a TCP connection (TCP_INFO, tcp(7)); zero for one that ended.
func info(c *net.TCPConn) (info unix.TCPInfo) {
	raw, err := c.SyscallConn()
	if err != nil {
		return info
	}

	_ = raw.Control(func(fd uintptr) {
		if got, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			info = *got
		}
	})

	return info
}

// silent returns for how many milliseconds nothing came from either end.
func (fl *flow) silent() uint32 {
	n := lastReceived(fl.client)
	if fl.instance != nil {
		n = min(n, lastReceived(fl.instance))
	}

	return n
}
