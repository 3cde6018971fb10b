package manager

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

// batch is how many events are read at once.
const batch = 500

// Sink is where events go, or lines of logs.
type Sink[T any] struct {
	// Waits is called when all that is there was emitted, before new ones are waited for.
	Waits func() error
	// Emit takes one. When it fails, nothing more is emitted.
	Emit func(T) error
}

// EventQuery selects events.
type EventQuery struct {
	Since  uint64       // the sequence number after which they begin
	App    ident.AppRef // the app's id or name; empty: of all
	Follow bool         // go on with new ones
}

// Events emits the events that the caller may see, oldest first; with Follow it goes
// on with new ones until ctx ends or emitting fails.
func (m *Manager) Events(ctx context.Context, caller ident.KeyHash, q EventQuery, to Sink[managerapi.Event]) error {
	if q.Follow {
		leave, err := m.follow(caller, "")
		if err != nil {
			return err
		}
		defer leave()
	}

	filter := EventFilter{App: q.App, Owner: caller}
	if caller == m.cfg.Operator {
		var err error
		if filter.Owner, err = m.ownerOf(ctx, q.App); err != nil {
			return err
		}
	}

	since := q.Since
	for first := true; ; {
		m.mu.Lock()
		written := m.written
		newest := m.newest
		m.mu.Unlock()

		events, err := m.cfg.Store.Events(ctx, since, filter, batch)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := to.Emit(e.Event); err != nil {
				return err
			}
			since = e.Seq
		}
		if len(events) == batch {
			continue
		}

		if first && q.App != "" && len(events) == 0 {
			if err := m.mentioned(ctx, caller, filter); err != nil {
				return err
			}
		}
		first = false
		if !q.Follow {
			return nil
		}

		if err := to.Waits(); err != nil {
			return err
		}
		since = max(since, newest) // of others there may be many: they are not read again
		select {
		case <-ctx.Done():
			return nil
		case <-written:
		}
	}
}

// ownerOf is whose events the operator means by an app's id or name: nobody's alone where
// nobody has one. A name that several keys have, or had while none has it now, is refused.
func (m *Manager) ownerOf(ctx context.Context, app ident.AppRef) (ident.KeyHash, error) {
	if app == "" {
		return ident.KeyHash{}, nil
	}
	m.mu.Lock()
	a, err := m.findApp(m.cfg.Operator, app)
	m.mu.Unlock()
	if err == nil {
		return a.Owner, nil
	}
	if problem.KindOf(err) != problem.NotFound {
		return ident.KeyHash{}, err
	}

	ids := map[ident.KeyHash]string{} // of the newest app of each key
	for since := uint64(0); ; {
		events, err := m.cfg.Store.Events(ctx, since, EventFilter{App: app}, batch)
		if err != nil {
			return ident.KeyHash{}, err
		}
		for _, e := range events {
			if e.AppID == string(app) {
				return e.Owner, nil
			}
			ids[e.Owner], since = e.AppID, e.Seq
		}
		if len(events) < batch {
			break
		}
	}

	if len(ids) < 2 {
		return ident.KeyHash{}, nil
	}
	return ident.KeyHash{}, problem.New(problem.Conflict, ruleAppNameAmbiguous, "%d keys had an app %q, and it is removed", len(ids), app).
		Want("the id of one: %s", strings.Join(slices.Sorted(maps.Values(ids)), ", ")).
		Fix("give the id, as in: cupel events ID; all events, of these apps too, have it in: cupel events -o json")
}

// mentioned refuses a name that the caller has no app of, and never had.
func (m *Manager) mentioned(ctx context.Context, caller ident.KeyHash, filter EventFilter) error {
	some, err := m.cfg.Store.Events(ctx, 0, filter, 1)
	if err != nil || len(some) > 0 {
		return err
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.findApp(caller, filter.App); problem.KindOf(err) != problem.NotFound {
		return nil
	}
	return m.noApp(caller, "no app %.100q, and no event of one", filter.App)
}

// LogQuery selects from an instance's output.
type LogQuery struct {
	Instance ident.InstanceRef
	Previous bool // of the attempt before the newest
	LogOptions
}

// Logs emits each line of an instance's output. With Follow it goes on over restarts,
// until the instance is gone, ended for good, or ctx ends.
func (m *Manager) Logs(ctx context.Context, caller ident.KeyHash, q LogQuery, to Sink[managerapi.LogLine]) error {
	app, attempt, err := m.logged(caller, q.Instance, q.Previous)
	if err != nil {
		return err
	}
	if q.Follow {
		leave, err := m.follow(caller, app)
		if err != nil {
			return err
		}
		defer leave()
	}

	for {
		if err := m.copyLogs(ctx, q, attempt, to); err != nil || !q.Follow || q.Previous {
			return err
		}

		next, err := m.attemptAfter(ctx, caller, q.Instance, attempt)
		if next == 0 {
			return err
		}
		// Of the next attempt, all is new.
		attempt = next
		q.Tail = -1
	}
}

// logged returns the attempt whose output is shown, the newest that ran, and its app's
// id.
func (m *Manager) logged(caller ident.KeyHash, id ident.InstanceRef, previous bool) (app string, attempt int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, _, err := m.replica(caller, id)
	if err != nil {
		return "", 0, err
	}

	attempt = r.Attempt
	if previous {
		attempt--
	}
	for ; attempt > 0 && attempt >= r.Attempt-1; attempt-- {
		if _, ok := m.observed[attemptID(r, attempt)]; ok {
			return r.App, attempt, nil
		}
		if previous {
			break
		}
	}

	if previous {
		return "", 0, problem.New(problem.NotFound, problem.RuleLogs, "no output of an earlier run of %s is kept", id)
	}
	return "", 0, problem.New(problem.NotFound, problem.RuleLogs, "instance %s has not started yet", id).Fix("see 'cupel events'")
}

// copyLogs emits one attempt's output.
func (m *Manager) copyLogs(ctx context.Context, q LogQuery, attempt int, to Sink[managerapi.LogLine]) error {
	output, err := m.cfg.Backend.Logs(ctx, attemptID(&Replica{ID: string(q.Instance)}, attempt), q.LogOptions)
	if err != nil {
		return err
	}
	defer func() { _ = output.Close() }()

	if q.Follow {
		if err := to.Waits(); err != nil {
			return err
		}
	}

	lines := bufio.NewReader(output)
	for {
		raw, err := lines.ReadBytes('\n')
		if len(raw) > 0 {
			var l LogLine
			if json.Unmarshal(raw, &l) == nil {
				line := managerapi.LogLine{
					Time:     l.Time,
					Stream:   l.Stream,
					Line:     l.Line,
					Partial:  l.Partial,
					Instance: string(q.Instance),
				}
				if err := to.Emit(line); err != nil {
					return err
				}
			}
		}
		if err == io.EOF || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// attemptAfter waits for the attempt after the given one; 0 if none will come.
func (m *Manager) attemptAfter(ctx context.Context, caller ident.KeyHash, id ident.InstanceRef, attempt int) (int, error) {
	for {
		m.mu.Lock()
		changed := m.changed
		r, _, err := m.replica(caller, id)
		next := 0
		if err == nil && r.Attempt > attempt {
			if _, ok := m.observed[attemptID(r, r.Attempt)]; ok {
				next = r.Attempt
			}
		}

		over := err != nil || r.Done || r.Removing
		m.mu.Unlock()
		if next > 0 {
			return next, nil
		}
		if over {
			return 0, nil
		}

		select {
		case <-ctx.Done():
			return 0, nil
		case <-changed:
		}
	}
}
