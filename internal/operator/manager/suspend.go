package manager

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	managerapi "cupel.dev/cupel/api/manager"

	"cupel.dev/cupel/api/ident"
)

// Suspend stops every instance and the balancer's ports, after Run has
// returned. What is desired stays: the next Run starts it again.
func (m *Manager) Suspend(ctx context.Context) error {
	list, err := m.cfg.Backend.List(ctx)
	if err != nil {
		return err
	}
	seen := map[ident.AttemptID]InstanceStatus{}
	for _, s := range list {
		seen[s.ID] = s
	}

	m.mu.Lock()
	var c Change
	stopped := map[ident.AttemptID]*Replica{}
	for _, r := range m.state.Replicas {
		if r.Done {
			continue
		}
		stopped[attemptID(r, r.Attempt)] = r

		next := *r
		next.Attempt++
		next.beginAnew()
		c.Replicas = append(c.Replicas, &next)
		// Most tell the CAS themselves that they end; who can't is told of when
		// the manager is back.
		c.Notices = append(c.Notices, m.goneNotices(r, seen[attemptID(r, r.Attempt)])...)
	}
	// Apps end in order also where a full disk lets nothing be noted: the next
	// manager finds them gone, as after a crash of the machine.
	err = m.commit(ctx, c)
	m.mu.Unlock()

	err = errors.Join(err, m.cfg.Balancer.Apply(ctx, nil))
	err = errors.Join(err, m.each(ctx, list, func(id ident.AttemptID) action { return stopAttempt{id} }))
	err = errors.Join(err, m.noteDataLost(ctx, stopped))
	return errors.Join(err, m.each(ctx, list, func(id ident.AttemptID) action { return removeAttempt{id} }))
}

// beginAnew has the next attempt follow a stop that was asked for: how the ones before
// failed is neither said of it, nor does it wait for that. What only the app's owner can
// mend is still so.
func (r *Replica) beginAnew() {
	if onlyOwnerMends(r.Problem) {
		return
	}
	r.setEnd(0, false, nil)
	r.Failures = 0
	r.NotBefore = time.Time{}
}

// each does the same with every instance, at once.
func (m *Manager) each(ctx context.Context, list []InstanceStatus, do func(id ident.AttemptID) action) error {
	var g errgroup.Group
	for _, s := range list {
		g.Go(func() error { return do(s.ID).do(ctx, m) })
	}
	return g.Wait()
}

// noteDataLost writes down which of the instances that were stopped kept nothing.
func (m *Manager) noteDataLost(ctx context.Context, stopped map[ident.AttemptID]*Replica) error {
	list, err := m.cfg.Backend.List(ctx)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()

	var c Change
	for _, s := range list {
		r := stopped[s.ID]
		if r == nil || r.Role != RoleApp || s.State != StateExited || r.Recorded == r.Attempt {
			continue
		}

		a := m.state.Apps[r.App]
		if a == nil {
			continue
		}
		if why := dataLost(a.writingRevision(r), s); why != nil {
			c.Events = append(c.Events, newWarning(m.cfg.Now(), a, r, managerapi.ReasonNotCommitted, why.Actual))
			if next := m.state.Replicas[r.ID]; next != nil { // where it can't be removed, this is not told again
				told := *next
				told.Recorded = r.Attempt
				c.Replicas = append(c.Replicas, &told)
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
func (m *Manager) goneNotices(r *Replica, s InstanceStatus) []*Notice {
	a := m.state.Apps[r.App]
	if a == nil || s.InstanceID.IsZero() {
		return nil
	}

	var out []*Notice
	for _, h := range a.grants() {
		if h.Revision == r.Revision {
			out = append(out, goneNotice(m.cfg.Now(), a, h, s.InstanceID, s.ID))
		}
	}
	return out
}
