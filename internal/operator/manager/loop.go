package manager

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"cupel.dev/cupel/api/problem"
)

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
	return problem.New(problem.Internal, ruleBackendWatch, "the backend stopped telling of changes")
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
	for _, in := range c.Replicas {
		m.state.Replicas[in.ID] = in
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
	for _, id := range c.DeleteReplicas {
		if in := m.state.Replicas[id]; in != nil {
			m.placed.drop(in)
		}
		delete(m.state.Replicas, id)
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
