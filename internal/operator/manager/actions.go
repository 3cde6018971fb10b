package manager

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// action is one slow call. The planner wants it, the loop carries it out beside itself,
// and what became of it is what the next pass plans with.
type action interface {
	// key is what is busy until the call has ended: the planner wants no other action of
	// the same key before.
	key() string
	// do makes the call.
	do(ctx context.Context, m *Manager) error
	// settle takes note of what became of it. Callers hold mu.
	settle(m *Manager, err error, now time.Time)
}

// planned is an action with the app whose step it is.
type planned struct {
	app    string // the app's id; empty: it is of no app
	action action
}

// perform carries an action out beside the loop. Callers hold mu.
func (m *Manager) perform(ctx context.Context, calls *sync.WaitGroup, a action) {
	key := a.key()
	if m.busy[key] {
		return
	}
	m.busy[key] = true
	m.work.calls++

	calls.Go(func() {
		m.settle(a, a.do(ctx, m))
		m.poke()
	})
}

// settle takes note of what became of an action.
func (m *Manager) settle(a action, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.busy, a.key())
	a.settle(m, err, m.cfg.Now())
	m.broadcast()
}

func isCancelled(err error) bool { return errors.Is(err, context.Canceled) }

// startAttempt starts an attempt. Its key is the attempt's id, as are those of
// stopAttempt and removeAttempt: one call at a time is made for an attempt.
type startAttempt struct{ spec InstanceSpec }

func (s startAttempt) key() string { return string(s.spec.ID) }

func (s startAttempt) do(ctx context.Context, m *Manager) error {
	return m.cfg.Backend.Start(ctx, s.spec)
}

func (s startAttempt) settle(m *Manager, err error, _ time.Time) {
	switch {
	case err == nil || isCancelled(err):
		m.forgetFailures(s.spec.ID)
	case problem.Is(err, problem.RuleImageMissing):
		m.images[s.spec.Image] = imageState{} // so that it is brought again
	default:
		m.startErrors[s.spec.ID] = problem.From(err)
	}
}

// stopAttempt ends an attempt and keeps it for its logs.
type stopAttempt struct{ id ident.AttemptID }

func (s stopAttempt) key() string { return string(s.id) }

func (s stopAttempt) do(ctx context.Context, m *Manager) error {
	err := m.cfg.Backend.Stop(ctx, s.id, m.limits.Grace)
	if problem.KindOf(err) == problem.NotFound {
		return nil // gone, which is more than was asked for
	}
	return err
}

func (s stopAttempt) settle(m *Manager, err error, _ time.Time) { m.settleEnd(s.id, err) }

// removeAttempt ends an attempt and frees all that it held, its logs too.
type removeAttempt struct{ id ident.AttemptID }

func (r removeAttempt) key() string { return string(r.id) }

func (r removeAttempt) do(ctx context.Context, m *Manager) error {
	if err := stopAttempt(r).do(ctx, m); err != nil {
		return err
	}
	return m.cfg.Backend.Remove(ctx, r.id)
}

func (r removeAttempt) settle(m *Manager, err error, _ time.Time) { m.settleEnd(r.id, err) }

// settleEnd takes note of how it went to stop or remove an attempt. Callers hold mu.
func (m *Manager) settleEnd(id ident.AttemptID, err error) {
	if err == nil || isCancelled(err) {
		m.forgetFailures(id)
		return
	}
	m.noteUncleared(id, err)

	// A moment lies between this try and the next.
	m.busy[string(id)] = true
	time.AfterFunc(time.Second, func() {
		m.mu.Lock()
		delete(m.busy, string(id))
		m.mu.Unlock()
		m.poke()
	})
}

// forgetFailures forgets how earlier calls for an attempt failed. Callers hold mu.
func (m *Manager) forgetFailures(id ident.AttemptID) {
	delete(m.startErrors, id)
	delete(m.uncleared, id)
}

// bringImage brings an image to where instances start from it.
type bringImage struct{ ref ident.ImageRef }

func (b bringImage) key() string { return "image:" + string(b.ref) }

func (b bringImage) do(ctx context.Context, m *Manager) error {
	_, err := m.cfg.Backend.EnsureImage(ctx, b.ref)
	return err
}

func (b bringImage) settle(m *Manager, err error, now time.Time) {
	state := imageState{ready: err == nil}
	if err != nil && !isCancelled(err) {
		state.failures = m.images[b.ref].failures + 1
		state.problem = problem.From(err)
		state.retry = now.Add(backoff(m.limits, state.failures))
		m.tellMissing(b.ref, state)
	}
	m.images[b.ref] = state
}

// deliverNotice tells a CAS what it has to know.
type deliverNotice struct{ notice *Notice }

func (d deliverNotice) key() string { return noticeKey(d.notice.ID) }

func noticeKey(id string) string { return "cas:" + id }

func (d deliverNotice) do(ctx context.Context, m *Manager) error {
	n := d.notice
	addr := m.casAddr(n.CAS, n.CASAddr)
	if n.Instance.IsZero() {
		return m.cfg.Grants.GiveBack(ctx, addr, n.CAS, n.Token)
	}
	return m.cfg.Grants.Gone(ctx, addr, n.CAS, n.Token, n.Instance)
}

func (d deliverNotice) settle(m *Manager, err error, now time.Time) {
	if !isCancelled(err) {
		m.settleDelivery(d.notice, err, now)
	}
}

// reachCAS asks an app's CAS whether it is there.
type reachCAS struct {
	app  string // the app's id
	cas  ident.KeyHash
	addr string // empty: the manager's own
}

func (r reachCAS) key() string { return "reach:" + r.app }

func (r reachCAS) do(ctx context.Context, m *Manager) error {
	return m.cfg.Grants.Reach(ctx, m.casAddr(r.cas, r.addr), r.cas)
}

func (r reachCAS) settle(m *Manager, err error, now time.Time) {
	m.reached[r.app] = reachResult{at: now, err: err}
}

// countConnections counts the connections of instances that the balancer doesn't lead to
// any more.
type countConnections struct {
	of   map[ident.AttemptID]netip.Addr // by the attempt's id
	open map[netip.Addr]int             // the answer
}

func (c *countConnections) key() string { return "connections" }

func (c *countConnections) do(ctx context.Context, m *Manager) (err error) {
	c.open, err = m.cfg.Balancer.Connections(ctx)
	return err
}

func (c *countConnections) settle(m *Manager, err error, now time.Time) {
	if err != nil && !isCancelled(err) {
		m.cfg.Log.Warn("connections of leaving instances not counted", "error", err)
	}
	m.settleCounts(c, err, now)
}

// programBalancer makes frontends the whole of what is served.
type programBalancer struct{ frontends []Frontend }

func (p programBalancer) key() string { return "balance" }

func (p programBalancer) do(ctx context.Context, m *Manager) error {
	return m.cfg.Balancer.Apply(ctx, p.frontends)
}

func (p programBalancer) settle(m *Manager, err error, now time.Time) {
	m.settleBalance(p.frontends, err, now)
}
