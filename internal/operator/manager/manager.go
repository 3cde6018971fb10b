package manager

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	wire "cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// Catalog knows the images that the operator offers.
type Catalog interface {
	// Runtimes lists them; the one named "puller" fills volumes.
	Runtimes(ctx context.Context) ([]wire.Runtime, error)
}

// PullerRuntime is the name of the runtime that fills volumes.
const PullerRuntime = "puller"

// Config is what a Manager is made of. All fields but Log, Limits,
// NewID and Incidents are required.
type Config struct {
	Store    Store
	Backend  Backend
	Balancer Balancer
	Catalog  Catalog
	// Grants reaches CASes as whoever holds grants, with the operator's key.
	Grants Grants
	// CAS is the CAS that sessions are in unless a request names another.
	CAS wire.CASRef
	// PortFree answers nil if nobody holds the TCP port on this machine.
	PortFree func(port uint16) error
	// Room answers nil if the disk has room for what a deployment writes; nil: it has.
	Room func() error
	// InTheWay is what of this machine stands in the way of instances, in a sentence's
	// words, as far as that is known; empty: nothing is known of. Nil: nobody looks.
	InTheWay func() string
	// FirstPort is where the search for a free port begins: 8082.
	FirstPort uint16
	// Launcher is the one that the Backend starts instances with that name none:
	// new revisions name it.
	Launcher ident.Digest
	// Operator is the key that may list and remove everything.
	Operator ident.KeyHash
	// Keys are what everybody else may have.
	Keys KeyLimits
	// Memory is the machine's; zero: nobody counts.
	Memory    MachineMemory
	Simulated bool // instances run on a simulated platform
	Now       func() time.Time
	// Incidents is where the machine's parts tell what happened to them; nil: nowhere.
	Incidents *Incidents
	Limits    *Limits
	NewID     func(prefix string) string
	Log       *slog.Logger
}

// Manager is the operator's manager. Make it with New, run it with Run.
type Manager struct {
	cfg      Config
	limits   Limits
	wake     chan struct{} // of capacity 1
	mu       sync.Mutex    // guards what follows; held for no call of the Backend
	state    State
	placed   placement // of the state's instances
	observed map[string]InstanceStatus
	images   map[string]imageState
	applied  serving
	balance  balanceState
	drains   map[string]drainee // by the Backend's id
	queued   map[string]bool    // places whose instances wait for their turn to start
	busy     map[string]bool
	startErr map[string]*problem.Error
	// uncleared are the rules of failures to end or remove instances, by the
	// Backend's id: each is told once.
	uncleared map[string]string
	told      map[string]tell  // by the notice's id
	reached   map[string]reach // by the app's id
	changed   chan struct{}    // closed and replaced when anything changed
	newest    uint64           // number of the last event that was written
	written   chan struct{}    // closed and replaced when events were written
	work      work
	following followers
}

// outcome is what became of an action.
type outcome struct {
	action action
	err    error
}

// New loads the state. Nothing happens before Run.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	state, err := cfg.Store.Load(ctx)
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.NewID == nil {
		cfg.NewID = randomID
	}
	if cfg.Incidents == nil {
		cfg.Incidents = &Incidents{}
	}
	limits := DefaultLimits()
	if cfg.Limits != nil {
		limits = *cfg.Limits
	}
	for _, a := range state.Apps {
		if a.Rollout.active() {
			a.Rollout.takeUp(cfg.Now(), limits.Deadline)
		}
	}
	observed := map[string]InstanceStatus{}
	if list, err := cfg.Backend.List(ctx); err == nil { // so that the first answer isn't that nothing runs
		for _, s := range list {
			observed[s.ID] = s
		}
	}
	return &Manager{
		cfg: cfg, limits: limits, state: state,
		wake: make(chan struct{}, 1), placed: placementOf(state.Instances),
		observed: observed, images: map[string]imageState{},
		busy: map[string]bool{}, drains: map[string]drainee{}, startErr: map[string]*problem.Error{}, uncleared: map[string]string{}, told: map[string]tell{},
		reached: map[string]reach{},
		changed: make(chan struct{}), written: make(chan struct{}),
	}, nil
}

func randomID(prefix string) string {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + "-" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

// resync is how long the loop trusts that no event of the Backend was lost.
const resync = 15 * time.Second

// work counts what the loop did, for tests.
type work struct {
	passes, plans, visited, calls int
}

// Run reconciles until ctx ends. Calls of the Backend that are under way then
// are cancelled, and it returns when they have; instances run on.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	watch, err := m.cfg.Backend.Watch(ctx)
	if err != nil {
		return err
	}
	m.cfg.Incidents.wake(m.poke)

	// However many events come while a pass is under way, one more pass follows.
	lost := make(chan struct{})
	calls.Go(func() {
		defer close(lost)
		for range watch {
			m.poke()
		}
	})
	for {
		began := time.Now()
		wait := m.pass(ctx, &calls)
		// A pass over very much costs time, and as much is left to others before the
		// next one: what happens meanwhile is planned together.
		rested := time.Now().Add(min(time.Since(began), maxRest))
		if !m.sleep(ctx, wait, lost) {
			break
		}
		pause(ctx, time.Until(rested))
	}
	if ctx.Err() != nil {
		return nil
	}
	return problem.New(problem.Internal, "backend_watch", "the backend stopped telling of changes")
}

// maxRest is how long the loop rests after a pass at most.
const maxRest = 250 * time.Millisecond

// sleep waits until there is something to plan; false where nothing will come.
func (m *Manager) sleep(ctx context.Context, wait time.Duration, lost <-chan struct{}) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-lost:
		return false
	case <-m.wake:
	case <-timer.C:
	}
	return true
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// pass plans until nothing more follows at once, and returns how long to wait
// for something to happen.
func (m *Manager) pass(ctx context.Context, calls *sync.WaitGroup) time.Duration {
	// What was under way when the list is asked for may have ended since: the list
	// doesn't show it yet, so this pass takes it as under way still.
	m.mu.Lock()
	busy := maps.Clone(m.busy)
	m.mu.Unlock()
	list, err := m.cfg.Backend.List(ctx)
	if err != nil {
		if ctx.Err() == nil {
			m.cfg.Log.WarnContext(ctx, "instances unknown", "error", err)
		}
		return time.Second
	}
	observed := make(map[string]InstanceStatus, len(list))
	for _, s := range list {
		observed[s.ID] = s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.learn(ctx, observed)
	m.addLost(observed, busy)
	m.observed = observed
	m.work.passes++
	m.broadcast()
	m.writeIncidents(ctx)
	m.forget()
	for range 100 { // a plan that never settles is a bug: don't let it spin
		now := m.cfg.Now()
		if len(m.balance.failed) > 0 && !now.Before(m.balance.retry) {
			m.balance.failed = nil
		}
		maps.Copy(busy, m.busy)
		d := plan(m.world(now, busy))
		m.work.plans++
		m.work.visited += d.visited
		var failed error
		m.noteLeaving(d.leaving, now)
		m.queued = d.queued
		if !d.change.empty() {
			failed = m.commit(ctx, d.change)
		}
		if failed != nil {
			m.cfg.Log.ErrorContext(ctx, "state not written", "error", failed)
			d.actions = d.independent(m.applied)
		}
		for _, a := range d.actions {
			m.launch(ctx, calls, a)
		}
		if failed != nil {
			return time.Second
		}
		if d.change.empty() {
			if d.wake.IsZero() {
				return resync
			}
			return min(max(d.wake.Sub(now), 0), resync)
		}
	}
	return time.Second
}

// forget drops what is known of attempts and images that nobody asks for any more.
// Callers hold mu.
func (m *Manager) forget() {
	for id := range m.startErr {
		if _, in := m.ofBackend(id); in == nil || backendID(in, in.Attempt) != id {
			delete(m.startErr, id)
		}
	}
	named := map[string]bool{}
	for _, a := range m.state.Apps {
		for _, rev := range []*Revision{a.Current, a.Next} {
			if rev != nil {
				named[rev.Image], named[rev.PullImage] = true, true
			}
		}
	}
	for ref := range m.images {
		if !named[ref] {
			delete(m.images, ref)
		}
	}
}

func (m *Manager) world(now time.Time, busy map[string]bool) world {
	return world{
		now: now, state: m.state, placed: m.placed, observed: m.observed, images: m.images,
		applied: m.applied, balance: m.balance, drains: m.drains, startErrors: m.startErr, told: m.told, reached: m.reached,
		busy: busy, stuck: m.uncleared, limits: m.limits, launcher: m.cfg.Launcher, newID: m.cfg.NewID, inTheWay: m.cfg.InTheWay,
	}
}

// commit makes a change durable, then the memory follows. Callers hold mu.
func (m *Manager) commit(ctx context.Context, c Change) error {
	events, err := m.cfg.Store.Apply(ctx, c)
	if err != nil {
		return err
	}
	for _, a := range c.Apps {
		m.state.Apps[a.ID] = a
	}
	for _, in := range c.Instances {
		m.state.Instances[in.ID] = in
		m.placed.put(in)
	}
	for _, n := range c.Notices {
		m.state.Notices[n.ID] = n
	}
	for _, u := range c.Codes {
		m.state.Codes[u.Code] = u
	}
	for _, id := range c.DeleteApps {
		delete(m.state.Apps, id)
		delete(m.reached, id)
	}
	for _, id := range c.DeleteNotices {
		delete(m.state.Notices, id)
		delete(m.told, id)
	}
	for _, code := range c.DeleteCodes {
		delete(m.state.Codes, code)
	}
	for _, id := range c.DeleteInstances {
		if in := m.state.Instances[id]; in != nil {
			m.placed.drop(in)
		}
		delete(m.state.Instances, id)
	}
	for _, e := range events {
		m.newest = max(m.newest, e.Seq)
		level := slog.LevelInfo
		if e.Warning {
			level = slog.LevelWarn
		}
		m.cfg.Log.Log(ctx, level, e.Reason, "app", e.App, "instance", e.Instance, "detail", e.Message)
	}
	if len(events) > 0 {
		close(m.written)
		m.written = make(chan struct{})
	}
	m.broadcast()
	return nil
}

// broadcast wakes those who wait for any change. Callers hold mu.
func (m *Manager) broadcast() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// launch makes one slow call beside the loop. Callers hold mu.
func (m *Manager) launch(ctx context.Context, calls *sync.WaitGroup, a action) {
	if m.busy[a.key] {
		return
	}
	m.busy[a.key] = true
	m.work.calls++
	calls.Go(func() {
		m.settle(outcome{a, m.call(ctx, a)})
		m.poke()
	})
}

func (m *Manager) call(ctx context.Context, a action) error {
	b := m.cfg.Backend
	switch {
	case a.start != nil:
		return b.Start(ctx, *a.start)
	case a.stop != "":
		err := b.Stop(ctx, a.stop, m.limits.Grace)
		if problem.KindOf(err) == problem.NotFound {
			return nil // gone, which is more than was asked for
		}
		return err
	case a.drop != "":
		if err := b.Stop(ctx, a.drop, m.limits.Grace); err != nil && problem.KindOf(err) != problem.NotFound {
			return err
		}
		return b.Remove(ctx, a.drop)
	case a.image != "":
		_, err := b.EnsureImage(ctx, a.image)
		return err
	case a.tell != nil:
		return m.deliver(ctx, a.tell)
	case a.look != nil:
		return a.look.take(ctx, m.cfg.Balancer)
	case a.reach != nil:
		return m.cfg.Grants.Reach(ctx, m.casAddr(a.reach.CAS, a.reach.CASAddr), a.reach.CAS)
	}
	return m.cfg.Balancer.Apply(ctx, a.apply)
}

// settle takes note of what became of an action.
func (m *Manager) settle(o outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.busy, o.action.key)
	now := m.cfg.Now()
	cancelled := errors.Is(o.err, context.Canceled)
	switch a := o.action; {
	case a.key == balanceKey:
		m.settleBalance(a, o.err, now)
	case a.look != nil:
		if o.err != nil && !cancelled {
			m.cfg.Log.Warn("connections of leaving instances not counted", "error", o.err)
		}
		m.settleLook(a.look, o.err, now)
	case a.reach != nil:
		m.settleReach(a.reach, o.err, now)
	case a.tell != nil:
		if !cancelled {
			m.settleTell(a.tell, o.err, now)
		}
	case a.image != "":
		st := imageState{ready: o.err == nil}
		if o.err != nil && !cancelled {
			st.failures = m.images[a.image].failures + 1
			st.problem = problem.From(o.err)
			st.retry = now.Add(backoff(m.limits, st.failures))
		}
		m.images[a.image] = st
	case o.err == nil || cancelled:
		delete(m.startErr, o.action.key)
		delete(m.uncleared, o.action.key)
	case a.start != nil:
		if p := problem.From(o.err); p.Rule == "image_missing" {
			m.images[a.start.Image] = imageState{} // bring it again
		} else {
			m.startErr[a.key] = p
		}
	default:
		m.stuck(a.key, o.err)
		m.busy[a.key] = true // breathe before the next try
		time.AfterFunc(time.Second, func() {
			m.mu.Lock()
			delete(m.busy, a.key)
			m.mu.Unlock()
			m.poke()
		})
	}
	m.broadcast()
}

func (m *Manager) settleBalance(a action, err error, now time.Time) {
	switch {
	case err == nil:
		m.applied, m.balance.known = servingOf(a.apply), true
		return
	case errors.Is(err, context.Canceled):
		return
	}
	m.balance.retry = now.Add(5 * time.Second)
	m.cfg.Log.Warn("balancer not programmed", "error", err)
	if problem.From(err).Rule != "port_taken" {
		return
	}
	for _, f := range a.apply {
		if m.applied.ports[f.Port] {
			continue
		}
		if busy := m.cfg.PortFree(f.Port); busy != nil {
			if m.balance.failed == nil {
				m.balance.failed = map[uint16]*problem.Error{}
			}
			m.balance.failed[f.Port] = portTaken(f.Port, busy)
		}
	}
}

func portTaken(port uint16, cause error) *problem.Error {
	if errors.Is(cause, syscall.EADDRINUSE) {
		cause = errors.New("another program of this machine has it")
	}
	return problem.New(problem.Conflict, "port_taken", "port %d is taken: %w", port, cause).
		Fix("give another with --port, or leave it out to get the next free one")
}

// poke makes the loop look again.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Suspend stops every instance and the balancer's ports, after Run has
// returned. What is desired stays: the next Run starts it again.
func (m *Manager) Suspend(ctx context.Context) error {
	list, err := m.cfg.Backend.List(ctx)
	if err != nil {
		return err
	}
	seen := map[string]InstanceStatus{}
	for _, s := range list {
		seen[s.ID] = s
	}

	m.mu.Lock()
	var c Change
	stopped := map[string]*Instance{}
	for _, in := range m.state.Instances {
		if in.Done {
			continue
		}
		stopped[backendID(in, in.Attempt)] = in
		next := *in
		next.Attempt++
		c.Instances = append(c.Instances, &next)
		// Most tell the CAS themselves that they end; who can't is told of when
		// the manager is back.
		c.Notices = append(c.Notices, m.goneNotices(in, seen[backendID(in, in.Attempt)])...)
	}
	// Apps end in order also where a full disk lets nothing be noted: the next
	// manager finds them gone, as after a crash of the machine.
	err = m.commit(ctx, c)
	m.mu.Unlock()
	err = errors.Join(err, m.cfg.Balancer.Apply(ctx, nil))
	err = errors.Join(err, m.each(ctx, list, func(id string) action { return action{stop: id} }))
	err = errors.Join(err, m.noteLost(ctx, stopped))
	return errors.Join(err, m.each(ctx, list, func(id string) action { return action{drop: id} }))
}

// each does the same with every instance, at once.
func (m *Manager) each(ctx context.Context, list []InstanceStatus, do func(id string) action) error {
	var g errgroup.Group
	for _, s := range list {
		g.Go(func() error { return m.call(ctx, do(s.ID)) })
	}
	return g.Wait()
}

// noteLost writes down which of the instances that were stopped kept nothing.
func (m *Manager) noteLost(ctx context.Context, stopped map[string]*Instance) error {
	list, err := m.cfg.Backend.List(ctx)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var c Change
	for _, s := range list {
		in := stopped[s.ID]
		if in == nil || in.Role != RoleApp || s.State != StateExited || in.Recorded == in.Attempt {
			continue
		}
		a := m.state.Apps[in.App]
		if a == nil {
			continue
		}
		if why := lost(a.writer(in), s); why != nil {
			c.Events = append(c.Events, newEvent(m.cfg.Now(), a, in, true, wire.ReasonNotCommitted, why.Actual))
			if next := m.state.Instances[in.ID]; next != nil { // where it can't be removed, this is not told again
				told := *next
				told.Recorded = in.Attempt
				c.Instances = append(c.Instances, &told)
			}
		}
	}
	if len(c.Events) == 0 {
		return nil
	}
	return m.commit(ctx, c)
}

// goneNotices are for an instance that will have ended when they are sent.
// Callers hold mu.
func (m *Manager) goneNotices(in *Instance, s InstanceStatus) []*Notice {
	a := m.state.Apps[in.App]
	if a == nil || s.InstanceID.IsZero() {
		return nil
	}
	var out []*Notice
	for _, h := range a.grants() {
		if h.Revision == in.Revision {
			out = append(out, goneNotice(m.cfg.Now(), a, h, s.InstanceID, s.ID))
		}
	}
	return out
}
