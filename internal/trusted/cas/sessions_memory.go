package cas

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
	"cupel.dev/cupel/internal/trusted/session"
)

// What of sessions is in memory can be had again from rows. It goes when nobody
// asked for it for idleAfter, and before that, the longest unused first, where
// all of them weigh more than maxLoaded.
const (
	idleAfter = 10 * time.Minute
	maxLoaded = 128 << 20 // bytes, as sessionState.weight estimates them
)

// reading returns a session that exists, loaded and locked for reading: the
// caller unlocks s.mu. Nothing of a session may be looked at without its lock,
// since what is idle leaves memory.
func (c *CAS) reading(ctx context.Context, name ident.SessionName) (*sessionState, error) {
	s, err := c.looking(ctx, name)
	if err != nil {
		return nil, err
	}

	if s.current.Hash.IsZero() {
		s.mu.RUnlock()
		return nil, sessionUnknown(name)
	}
	return s, nil
}

// looking is reading for a session that may have been removed, with the zero hash.
func (c *CAS) looking(ctx context.Context, name ident.SessionName) (*sessionState, error) {
	for {
		if !c.journal.Has(sessionRow(name)) {
			return nil, sessionUnknown(name)
		}
		s := c.state(name)
		s.mu.RLock()
		if s.loaded && !s.gone {
			s.used.Store(c.now().UnixNano())
			return s, nil
		}
		s.mu.RUnlock()

		s, err := c.writing(ctx, name) // loads it
		if err != nil {
			return nil, err
		}
		s.mu.Unlock()
	}
}

// writing returns a session loaded and locked for writing, whether it exists or
// not: the caller unlocks s.mu. Whether somebody may change it is looked at under
// reading before, so that nobody else has to wait for those who may not.
func (c *CAS) writing(ctx context.Context, name ident.SessionName) (*sessionState, error) {
	for {
		s := c.state(name)
		s.mu.Lock()
		if s.loaded && !s.gone {
			s.used.Store(c.now().UnixNano())
			return s, nil
		}
		gone := s.gone // it left memory while we waited: another state has its name
		s.mu.Unlock()
		if gone {
			continue
		}
		if err := c.load(ctx, s); err != nil {
			return nil, err
		}
	}
}

// updating returns a session that exists and that the caller may update, loaded
// and locked for writing: the caller unlocks s.mu. Who may not never asks for the
// lock for writing.
func (c *CAS) updating(ctx context.Context, who Caller, name ident.SessionName) (*sessionState, error) {
	s, err := c.reading(ctx, name)
	if err != nil {
		return nil, err
	}
	err = s.mayUpdate(who)
	s.mu.RUnlock()
	if err != nil {
		return nil, err
	}

	if s, err = c.writing(ctx, name); err != nil {
		return nil, err
	}

	if s.current.Hash.IsZero() { // removed just now
		err = sessionUnknown(name)
	} else {
		err = s.mayUpdate(who)
	}
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	return s, nil
}

// mayUpdate refuses whoever may not update the session, under s.mu.
func (s *sessionState) mayUpdate(who Caller) error {
	if s.may(who, session.OpUpdate) {
		return nil
	}
	return denied("update", string(s.name), "You have insufficient rights to update session %s", s.name)
}

// state is what is in memory of a session, made where nothing is.
func (c *CAS) state(name ident.SessionName) *sessionState {
	v, ok := c.sessions.Load(name)
	if !ok {
		v, _ = c.sessions.LoadOrStore(name, &sessionState{
			name:    name,
			secrets: map[string]secrets.Value{},
			volumes: map[string]*volume{},
			members: map[ident.InstanceID]*instance{},
			grants:  map[owners.GrantID]*grant{},
		})
	}
	return v.(*sessionState)
}

// load reads the current version. Nobody waits under s.mu for a turn to read a
// text: those who look after all sessions would wait for it too.
func (c *CAS) load(ctx context.Context, s *sessionState) error {
	s.loadMu.Lock() // one reads, however many wait
	defer s.loadMu.Unlock()

	s.mu.RLock()
	done := s.loaded || s.gone
	s.mu.RUnlock()
	if done {
		return nil
	}

	rec, err := c.sessionRecord(ctx, s.name)
	if err != nil {
		return err
	}
	var p *plan // nil: there is no session, or it was removed
	if !rec.Hash.IsZero() {
		if p, err = c.readPlan(ctx, s.name, rec.Hash); err != nil {
			return err
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.loaded || s.gone: // the row is this one still: who changes it has loaded it before
	case p == nil:
		s.current, s.loaded = rec, true
	default:
		c.keep(s, rec, p)
	}
	return nil
}

// readPlan makes a version's plan from its text.
func (c *CAS) readPlan(ctx context.Context, name ident.SessionName, hash ident.Digest) (*plan, error) {
	v, err := c.version(ctx, name, hash)
	if err != nil {
		return nil, err

	}
	leave, err := c.enterParser(ctx, len(v.Text))
	if err != nil {
		return nil, err
	}
	defer leave()

	p, err := compile([]byte(v.Text), v.Creator)
	if err != nil {
		return nil, fmt.Errorf("read session %s again: %w", name, err)
	}
	p.hash = hash
	return p, nil
}

// sessionRecord reads a session's row; a zero record where there is none.
func (c *CAS) sessionRecord(ctx context.Context, name ident.SessionName) (sessionRecord, error) {
	var rec sessionRecord
	plain, err := c.journal.Read(ctx, sessionRow(name))
	if err != nil {
		return rec, fmt.Errorf("read session: %w", err)
	}
	if plain == nil {
		return rec, nil
	}

	if err := json.Unmarshal(plain, &rec); err != nil {
		return rec, fmt.Errorf("read session %s: %w", name, err)
	}
	return rec, nil
}

// keep puts a version into memory, under s.mu held for writing.
func (c *CAS) keep(s *sessionState, rec sessionRecord, p *plan) {
	weight := p.weight()
	c.loaded.Add(weight - s.weight)
	s.current = rec
	s.plan = p
	s.weight = weight
	s.loaded = true
	s.opener.Store(&rec.Opened)

	if c.loaded.Load() > maxLoaded {
		select {
		case c.tight <- struct{}{}:
		default:
		}
	}
}

// evict lets go of what is idle, and of what is least used where memory is tight.
// It waits for nobody: a session that is in use stays.
func (c *CAS) evict(now time.Time) {
	type candidate struct {
		s    *sessionState
		used int64
	}
	var all []candidate
	c.sessions.Range(func(_, v any) bool {
		s := v.(*sessionState)
		all = append(all, candidate{s, s.used.Load()})
		return true
	})
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(a.used, b.used) })

	idle := now.Add(-idleAfter).UnixNano()
	tight := c.loaded.Load() > maxLoaded
	for _, one := range all {
		enough := c.loaded.Load() <= maxLoaded/4*3
		if one.used > idle && (!tight || enough) {
			return
		}
		c.unload(one.s, one.used, now)
	}
}

// unload takes a session out of memory unless it was used since.
func (c *CAS) unload(s *sessionState, used int64, now time.Time) {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()

	if s.used.Load() != used {
		return
	}

	c.loaded.Add(-s.weight)
	s.current = sessionRecord{}
	s.plan = nil
	s.weight = 0
	s.loaded = false
	s.forget()
	if s.unneeded(now) {
		s.gone = true
		c.sessions.CompareAndDelete(s.name, s)
	}
}

// forget lets go of values and volumes, under s.mu held for writing: whoever has
// one of them in hand holds it for reading.
func (s *sessionState) forget() {
	s.secretMu.Lock()
	s.secrets, s.pending = map[string]secrets.Value{}, nil
	s.secretMu.Unlock()

	s.volumeMu.Lock()
	s.volumes = map[string]*volume{}
	s.volumeMu.Unlock()
}

// unneeded reports whether the state itself may go, under s.mu held for writing:
// nothing points to it, and there is nothing that a row doesn't have.
func (s *sessionState) unneeded(now time.Time) bool {
	s.memberMu.Lock()
	alone := len(s.members) == 0 && len(s.grants) == 0
	s.memberMu.Unlock()
	return alone && s.trail.told(now)
}

// drop is unload for a state that was made for nothing: a name that was refused,
// under s.mu held for writing.
func (c *CAS) drop(s *sessionState) {
	if s.current.Hash.IsZero() && s.current.Removed.IsZero() && s.unneeded(c.now()) {
		s.gone = true
		c.sessions.CompareAndDelete(s.name, s)
	}
}
