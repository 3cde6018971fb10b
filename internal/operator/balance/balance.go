package balance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
)

var _ manager.Balancer = (*Balancer)(nil)

// Config says where a Balancer works. The zero value of an optional field is
// its default.
type Config struct {
	Table  string       // nftables table, ours alone: 1 to 64 of a-z 0-9 _
	Subnet netip.Prefix // of the instances, IPv4
	Log    *slog.Logger

	ClientIdle time.Duration // optional: a client unseen for so long may go elsewhere; 24 h
	MaxClients uint32        // optional: clients remembered per endpoint and family; 65536
	DrainAfter time.Duration // optional: how long flows outlive their endpoint; 3 s
	FlowIdle   time.Duration // optional: idle limit of proxied connections; 1 h
	MaxFlows   int           // optional: proxied connections at once; 2048

	Now func() time.Time // optional: the clock that ages clients and flows

	// Tell is told, once a minute at most, that all places of connections are taken;
	// optional.
	Tell func(manager.Incident)
}

// defaults fills in what is optional.
func (c *Config) defaults() {
	if c.ClientIdle == 0 {
		c.ClientIdle = 24 * time.Hour
	}
	if c.MaxClients == 0 {
		c.MaxClients = 1 << 16
	}
	if c.DrainAfter == 0 {
		c.DrainAfter = 3 * time.Second
	}
	if c.FlowIdle == 0 {
		c.FlowIdle = time.Hour
	}
	if c.MaxFlows == 0 {
		c.MaxFlows = 2048
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Tell == nil {
		c.Tell = func(manager.Incident) {}
	}
}

// Balancer is the manager's Balancer on one node.
type Balancer struct {
	cfg      Config
	kernel   *kernel
	affinity *affinity
	flows    *flows
	stop     context.CancelFunc // ends background work
	work     sync.WaitGroup     // the sweeper and the affinity's writer
	running  sync.WaitGroup     // listeners and their connections

	mu        sync.Mutex
	closed    bool
	listeners map[uint16]*listener
	applied   []frontend
	leaving   map[netip.Addr]bool // instances that keep their flows and get no new ones
	fresh     bool                // nothing applied yet: what the kernel has is our predecessor's
	drain     *time.Timer         // ends flows of endpoints that left
	ended     endedFlows          // by the passes of this drain

	fullMu   sync.Mutex
	fullTold time.Time // when Tell was last told that a limit is reached
}

// Open takes over the table, or makes it. What an earlier process left there
// goes on working; a table of another version is replaced.
func Open(ctx context.Context, cfg Config) (*Balancer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	cfg.defaults()

	table, err := newTable(cfg.Table)
	if err != nil {
		return nil, err
	}

	if !cfg.Subnet.Addr().Is4() || cfg.Subnet.Bits() < 1 {
		return nil, fmt.Errorf("subnet of the instances: %s is no IPv4 network", cfg.Subnet)
	}

	k := &kernel{
		table:  table,
		subnet: cfg.Subnet,
		idle:   cfg.ClientIdle,
		size:   cfg.MaxClients,
	}
	have, err := k.read()
	if err != nil {
		return nil, err
	}

	if !have.current {
		// Instances need masquerading before the first port is public.
		if err := k.program(have, nil, nil); err != nil {
			return nil, err
		}
	}

	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	b := &Balancer{
		cfg:    cfg,
		kernel: k,
		affinity: &affinity{
			kernel: k,
			log:    cfg.Log,
			now:    cfg.Now,
			queue:  make(chan membership, 256),
			ports:  map[uint16]*portAffinity{},
		},
		flows:     newFlows(cfg.MaxFlows, cfg.FlowIdle, cfg.Now),
		stop:      stop,
		listeners: map[uint16]*listener{},
		fresh:     true,
	}

	b.work.Go(func() { b.flows.sweep(background) })
	b.work.Go(b.affinity.write)
	return b, nil
}

// errClosed is what every call gets after Close.
var errClosed = problem.New(problem.Unavailable, ruleBalancerClosed, "the balancer was closed")

// Apply implements manager.Balancer.
func (b *Balancer) Apply(ctx context.Context, frontends []manager.Frontend) error {
	want, err := newFrontends(frontends, b.cfg.Subnet)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed
	}

	have, err := b.kernel.read()
	if err != nil {
		return err
	}
	before := b.stays()
	after := staying{live(want), leaving(frontends)}

	// Nothing changed, and nobody took anything away: only who leaves may be another.
	if !b.fresh && reflect.DeepEqual(want, b.applied) && have.serves(want) {
		b.leaving = after.leaving
		if before.loses(after) {
			b.scheduleDrain()
		}
		return nil
	}

	// Ports are bound before the kernel is programmed, so that a port that is taken
	// changes nothing; listeners begin to accept once the kernel has the same endpoints.
	bound, err := b.bindMissing(ctx, want)
	if err != nil {
		return err
	}
	if err := b.kernel.program(have, b.known(have), want); err != nil {
		for _, f := range bound {
			f.close()
		}
		return err
	}

	left := b.fresh || before.loses(after)
	b.publish(have, want)
	for _, f := range bound {
		b.start(f)
	}
	b.applied = want
	b.leaving = after.leaving
	b.fresh = false

	if left {
		b.scheduleDrain()
	}
	return nil
}

// known is what the kernel serves, if it is what we made it serve; nil: not known.
func (b *Balancer) known(have tableState) []frontend {
	if b.fresh || !have.serves(b.applied) {
		return nil
	}
	return append([]frontend{}, b.applied...)
}

// bindMissing binds the ports that want has and we don't; all or none.
func (b *Balancer) bindMissing(ctx context.Context, want []frontend) ([]*listener, error) {
	var bound []*listener

	for _, w := range want {
		if b.listeners[w.port] != nil {
			continue
		}
		f, err := b.bind(ctx, w.port)
		if err != nil {
			for _, f := range bound {
				f.close()
			}
			return nil, err
		}
		bound = append(bound, f)
	}

	return bound, nil
}

// publish makes want what the listeners serve, and gives up other ports.
func (b *Balancer) publish(have tableState, want []frontend) {
	wanted := map[uint16]bool{}

	for _, w := range want {
		wanted[w.port] = true
		b.affinity.set(w, func(set string) []netip.Addr {
			if !have.current || !have.sets[set] {
				return nil
			}
			clients, err := b.kernel.clients(set)
			if err != nil {
				b.cfg.Log.Warn("clients of an earlier process not read", "set", set, "error", err)
			}
			return clients
		})
	}

	for port := range b.listeners {
		if !wanted[port] {
			b.unbind(port)
		}
	}
}

// bind makes the listener of a port, which doesn't accept yet.
func (b *Balancer) bind(ctx context.Context, port uint16) (*listener, error) {
	ln, err := listen(ctx, port)
	if err != nil {
		return nil, err
	}

	return &listener{
		port:     port,
		ln:       ln,
		affinity: b.affinity,
		flows:    b.flows,
		log:      b.cfg.Log,
		running:  &b.running,
		full:     b.full,
	}, nil
}

// full tells, once a minute at most, that all places are taken: a client is turned away,
// or another one makes room for it.
func (b *Balancer) full(message string) {
	now := b.cfg.Now()

	b.fullMu.Lock()
	due := b.fullTold.IsZero() || now.Sub(b.fullTold) >= time.Minute
	if due {
		b.fullTold = now
	}
	b.fullMu.Unlock()

	if due {
		b.cfg.Tell(manager.Incident{Warning: true, Reason: "balancer_full", Message: message})
	}
}

// start lets a listener accept; called under mu.
func (b *Balancer) start(f *listener) {
	b.listeners[f.port] = f
	b.running.Add(1)
	go f.serve()
}

// unbind gives up a port, and what is known of its clients; called under mu.
func (b *Balancer) unbind(port uint16) {
	b.listeners[port].close()
	delete(b.listeners, port)
	b.affinity.drop(port)
}

// served is one way from a public port to an instance.
type served struct {
	port     uint16
	endpoint netip.AddrPort
}

// live are the ways that frontends lead to.
func live(frontends []frontend) map[served]bool {
	out := map[served]bool{}
	for _, f := range frontends {
		for _, e := range f.endpoints {
			out[served{f.port, e.addr}] = true
		}
	}
	return out
}

// leaving are the addresses of the instances that get no new connections.
func leaving(frontends []manager.Frontend) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, f := range frontends {
		for _, l := range f.Leaving {
			out[l.IP.Unmap()] = true
		}
	}
	return out
}

// staying says whose flows go on: those of endpoints, and whatever an instance
// that leaves still has.
type staying struct {
	live    map[served]bool
	leaving map[netip.Addr]bool
}

// stays is what goes on by what is applied now. It is called under mu.
func (b *Balancer) stays() staying { return staying{live(b.applied), b.leaving} }

// has tells whether the flows of one way go on.
func (s staying) has(f served) bool { return s.live[f] || s.leaving[f.endpoint.Addr()] }

// loses tells whether flows that stay with s don't with after.
func (s staying) loses(after staying) bool {
	for f := range s.live {
		if !after.has(f) {
			return true
		}
	}

	for addr := range s.leaving {
		if !after.leaving[addr] {
			return true
		}
	}
	return false
}

// Connections implements manager.Balancer.
func (b *Balancer) Connections(ctx context.Context) (map[netip.Addr]int, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	leaving := b.leaving
	b.mu.Unlock()

	open, err := translatedTo(leaving)
	if err != nil {
		return nil, err
	}
	for addr := range leaving {
		if n := b.flows.of(addr); n > 0 {
			open[addr] += n
		}
	}

	return open, nil
}

// scheduleDrain ends the flows of endpoints that left, in a while. Changes in
// quick succession are drained together, after the last; called under mu.
func (b *Balancer) scheduleDrain() {
	if b.drain != nil {
		b.drain.Stop()
	}
	b.drainIn(drainPasses)
}

// drainPasses is how many passes in a row have to find nothing once flows were
// ended: see endedFlows.
const drainPasses = 5

// drainIn makes the next of so many passes in a while; called under mu.
func (b *Balancer) drainIn(passes int) {
	var timer *time.Timer
	timer = time.AfterFunc(b.cfg.DrainAfter, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.closed || b.drain != timer {
			return
		}

		stays := b.stays()
		proxied := b.flows.closeIf(func(fl *flow) bool { return !stays.has(served{fl.port, fl.endpoint}) })

		if b.ended == nil {
			b.ended = endedFlows{}
		}
		translated, err := dropFlows(b.cfg.Subnet, stays, b.ended)
		if err != nil {
			b.cfg.Log.Warn("flows of removed instances not ended", "error", err)
		}

		if translated+proxied > 0 {
			b.cfg.Log.Info("ended flows of removed instances", "translated", translated, "proxied", proxied)
		}

		if translated > 0 {
			passes = drainPasses
		}
		passes--
		if passes == 0 || len(b.ended) == 0 {
			b.ended = nil
			return
		}
		b.drainIn(passes)
	})

	b.drain = timer
}

// Close gives up the bound ports and ends proxied connections. The table and
// what it serves stay.
func (b *Balancer) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}

	b.closed = true
	b.stop()
	if b.drain != nil {
		b.drain.Stop()
	}
	for _, f := range b.listeners {
		f.close()
	}
	b.mu.Unlock()

	b.endFlows()
	close(b.affinity.queue) // nobody is left who writes to it
	b.work.Wait()
	return nil
}

// endFlows waits until every handler has returned. One whose client was just accepted
// adds its flow late, hence the repetition.
func (b *Balancer) endFlows() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.running.Wait()
	}()

	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		b.flows.closeIf(func(*flow) bool { return true })
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

// Remove closes b and deletes the table: nothing is served any more and
// instances reach nothing. Idempotent.
func (b *Balancer) Remove(ctx context.Context) error {
	return errors.Join(b.Close(), RemoveTable(ctx, b.cfg.Table))
}

// Ports are the public ports that a table leads to instances, whoever runs. A port
// behind which nothing serves isn't among them.
func Ports(name string) ([]uint16, error) {
	table, err := newTable(name)
	if err != nil {
		return nil, err
	}

	have, err := (&kernel{table: table}).read()
	if err != nil {
		return nil, err
	}

	var out []uint16
	for chain := range have.chains {
		text, ok := strings.CutPrefix(chain, "ep_")
		if !ok {
			continue
		}
		port, _, _ := strings.Cut(text, "_")
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			out = append(out, uint16(n))
		}
	}

	slices.Sort(out)
	return slices.Compact(out), nil
}

// RemoveTable deletes the table of a Balancer that is not running; one that
// isn't there is no error.
func RemoveTable(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	table, err := newTable(name)
	if err != nil {
		return err
	}
	return (&kernel{table: table}).remove()
}
