package manager

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
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
		rest(ctx, time.Until(rested))
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

// rest waits for so long, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// maxPlans bounds the plans of one pass: one that never settles is a fault, and must not
// spin.
const maxPlans = 100

// retryPass is when a pass is tried again that the Backend or the Store failed.
const retryPass = time.Second

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
		return retryPass
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	m.observe(ctx, list, busy)
	for range maxPlans {
		now := m.cfg.Now()
		maps.Copy(busy, m.busy)
		d, err := m.planAndPerform(ctx, calls, now, busy)
		switch {
		case err != nil:
			return retryPass
		case !d.change.empty():
			continue // what was changed may make something else follow
		case d.wake.IsZero():
			return resync
		}
		return min(max(d.wake.Sub(now), 0), resync)
	}
	return retryPass
}

// observe takes note of what the Backend lists, and of what happened beside it. Callers
// hold mu.
func (m *Manager) observe(ctx context.Context, list []InstanceStatus, busy map[string]bool) {
	observed := make(map[ident.AttemptID]InstanceStatus, len(list))
	for _, s := range list {
		observed[s.ID] = s
	}
	m.learnMembers(ctx, observed)
	m.addLost(observed, busy)
	m.observed = observed
	m.work.passes++
	m.broadcast()

	m.writeIncidents(ctx)
	m.forget()
}

// planAndPerform makes one plan, writes its change and begins its actions. Where the
// change can't be written, it begins those that don't depend on it. Callers hold mu.
func (m *Manager) planAndPerform(ctx context.Context, calls *sync.WaitGroup, now time.Time, busy map[string]bool) (decision, error) {
	if len(m.balance.failed) > 0 && !now.Before(m.balance.retry) {
		m.balance.failed = nil
	}
	d := plan(m.worldAt(now, busy))
	m.work.plans++
	m.work.visited += d.visited
	m.noteLeaving(d.leaving, now)
	m.queued = d.queued

	var err error
	if !d.change.empty() {
		err = m.commit(ctx, d.change)
	}
	if err != nil {
		m.cfg.Log.ErrorContext(ctx, "state not written", "error", err)
		d.actions = d.independent(m.applied)
	}

	for _, a := range d.actions {
		m.perform(ctx, calls, a.action)
	}
	return d, err
}

// forget drops what is known of attempts and images that nobody asks for any more.
// Callers hold mu.
func (m *Manager) forget() {
	for id := range m.startErrors {
		if _, r := m.replicaOfAttempt(id); r == nil || attemptID(r, r.Attempt) != id {
			delete(m.startErrors, id)
		}
	}

	named := map[ident.ImageRef]bool{}
	for _, a := range m.state.Apps {
		for _, rev := range []*Revision{a.Current, a.Next} {
			if rev != nil {
				named[rev.Image] = true
				named[rev.PullImage] = true
			}
		}
	}
	for ref := range m.images {
		if !named[ref] {
			delete(m.images, ref)
		}
	}
}

// worldAt is what a pass of that time plans with. Callers hold mu.
func (m *Manager) worldAt(now time.Time, busy map[string]bool) world {
	return world{
		now:         now,
		state:       m.state,
		observed:    m.observed,
		images:      m.images,
		byApp:       m.byApp,
		applied:     m.applied,
		balance:     m.balance,
		drains:      m.drains,
		startErrors: m.startErrors,
		busy:        busy,
		uncleared:   m.uncleared,
		deliveries:  m.deliveries,
		reached:     m.reached,
		limits:      m.limits,
		launcher:    m.cfg.Launcher,
		newID:       m.cfg.NewID,
		inTheWay:    m.cfg.InTheWay,
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
	for _, r := range c.Replicas {
		m.state.Replicas[r.ID] = r
		m.byApp.put(r)
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
		delete(m.deliveries, id)
	}
	for _, code := range c.DeleteCodes {
		delete(m.state.Codes, code)
	}
	for _, id := range c.DeleteReplicas {
		if r := m.state.Replicas[id]; r != nil {
			m.byApp.drop(r)
		}
		delete(m.state.Replicas, id)
	}

	m.published(ctx, events)
	m.broadcast()
	return nil
}

// published logs events that were written, and wakes those who follow them. Callers hold mu.
func (m *Manager) published(ctx context.Context, events []Event) {
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
}

// broadcast wakes those who wait for any change. Callers hold mu.
func (m *Manager) broadcast() {
	close(m.changed)
	m.changed = make(chan struct{})
}
