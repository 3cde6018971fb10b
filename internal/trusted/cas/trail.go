package cas

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/wire"
)

const (
	// keptRefusals is how many different refusals of a session are remembered.
	keptRefusals = 100
	// trailPeriod is how long equal reads make one entry of the log, and all
	// refusals of a session one line: no stranger shall make the log grow.
	trailPeriod = time.Hour
	// maxRefusal is the most bytes that are kept of a refusal's text.
	maxRefusal = 400
)

// trail is what a session's owner can ask about afterwards, beside what changed:
// who read values that were given, and which releases were refused.
type trail struct {
	mu       sync.Mutex
	loaded   bool
	reads    map[ident.KeyHash]time.Time // when a read by a key was noted last
	refusals []owners.Refusal            // equal ones counted together, the latest last
	unnoted  int                         // refusals that no line of the log counts yet
	noted    time.Time                   // when the latest line was written
}

func refusedRow(name ident.SessionName) journal.RowID {
	return "refused/" + journal.RowID(name)
}

// noteRead puts a read of given values into the log, one entry for each key and
// hour. Callers that nobody listed by name are counted as one. The log is best
// kept, and not a condition: a CAS whose disk is full goes on being read.
func (c *CAS) noteRead(ctx context.Context, s *sessionState, p *plan, who Caller) {
	if !slices.ContainsFunc(p.session.Secrets, func(sec session.Secret) bool { return sec.HasValue }) {
		return
	}
	if p.session.Access.Open(session.OpRead) {
		who.Key = ident.KeyHash{}
	}

	now := c.now()
	s.trail.mu.Lock()
	last, read := s.trail.reads[who.Key]
	due := !read || now.Sub(last) >= trailPeriod
	if due {
		if s.trail.reads == nil {
			s.trail.reads = map[ident.KeyHash]time.Time{}
		}
		s.trail.reads[who.Key] = now
	}
	s.trail.mu.Unlock()
	if !due {
		return
	}

	_, err := c.journal.Commit(ctx, journal.Change{Event: owners.EventSessionRead, Actor: who.Key, Request: who.Request, Session: s.name})
	if err == nil {
		return
	}
	c.log.Warn("read of a session not recorded", "session", s.name, "error", err)
	s.trail.mu.Lock()
	defer s.trail.mu.Unlock()
	delete(s.trail.reads, who.Key) // the next read is noted instead
}

// noteRefusal remembers a release that was refused for good. What is only waited
// for is none.
func (c *CAS) noteRefusal(ctx context.Context, s *sessionState, req *wire.ReleaseRequest, err error) {
	p := problem.From(err)
	if p.Kind == problem.Unavailable || p.Kind == problem.Internal {
		return
	}
	r := owners.Refusal{
		Service:  req.Service,
		Rule:     p.Rule,
		Actual:   cutText(p.Actual),
		Expected: cutText(p.Expected),
		First:    c.now().UTC(),
		Count:    1,
	}
	r.Last = r.First

	s.trail.mu.Lock()
	defer s.trail.mu.Unlock()
	if err := s.loadRefusals(ctx, c.journal); err != nil {
		c.log.Warn("refused releases not read", "session", s.name, "error", err)
	}
	s.trail.add(r)
	s.trail.unnoted++
}

// cutText keeps the beginning of a refusal's text.
func cutText(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxRefusal)], "") }

// add counts r with its equal, or keeps it as the latest; under mu.
func (t *trail) add(r owners.Refusal) {
	i := slices.IndexFunc(t.refusals, func(o owners.Refusal) bool {
		return o.Service == r.Service && o.Rule == r.Rule && o.Actual == r.Actual && o.Expected == r.Expected
	})
	if i >= 0 {
		r.First, r.Count = t.refusals[i].First, t.refusals[i].Count+1
		t.refusals = slices.Delete(t.refusals, i, i+1)
	}
	t.refusals = append(t.refusals, r)
	for len(t.refusals) > keptRefusals {
		i := t.leastMissed()
		t.refusals = slices.Delete(t.refusals, i, i+1)
	}
}

// leastMissed is the oldest refusal by the rule that refused most: strangers can
// have one refuse as much as they like, and shall not push out the others; under mu.
func (t *trail) leastMissed() int {
	count, most := map[problem.Rule]int{}, 0
	for _, r := range t.refusals {
		count[r.Rule]++
		most = max(most, count[r.Rule])
	}
	return slices.IndexFunc(t.refusals, func(r owners.Refusal) bool { return count[r.Rule] == most })
}

// told reports whether the log has all that it is to have of the trail, so that
// it may be forgotten.
func (t *trail) told(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unnoted > 0 || now.Sub(t.noted) < trailPeriod {
		return false
	}
	for _, at := range t.reads {
		if now.Sub(at) < trailPeriod {
			return false
		}
	}
	return true
}

// reset begins the trail afresh, with its row dropped by the caller.
func (t *trail) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reads, t.refusals, t.unnoted, t.noted = nil, nil, 0, time.Time{}
	t.loaded = true
}

// loadRefusals reads what an earlier process wrote, under trail.mu.
func (s *sessionState) loadRefusals(ctx context.Context, j *journal.Journal) error {
	if s.trail.loaded {
		return nil
	}
	plain, err := j.Read(ctx, refusedRow(s.name))
	if err != nil {
		return fmt.Errorf("read refused releases: %w", err)
	}
	s.trail.loaded = true
	if plain == nil {
		return nil
	}

	var before []owners.Refusal
	if err := json.Unmarshal(plain, &before); err != nil {
		return fmt.Errorf("read refused releases: %w", err)
	}
	s.trail.refusals = append(before, s.trail.refusals...)
	return nil
}

// noteRefusals writes one line for all refusals of a session since the last, and
// the refusals themselves into a row: at most once an hour, but for the first.
func (c *CAS) noteRefusals(ctx context.Context, s *sessionState, now time.Time) error {
	s.trail.mu.Lock()
	defer s.trail.mu.Unlock()
	t := &s.trail
	if t.unnoted == 0 || !t.noted.IsZero() && now.Sub(t.noted) < trailPeriod {
		return nil
	}

	plain, err := json.Marshal(t.refusals)
	if err != nil {
		return fmt.Errorf("marshal refused releases: %w", err)
	}
	_, err = c.journal.Commit(ctx, journal.Change{
		Event:   owners.EventReleasesRefused,
		Session: s.name,
		Detail:  map[string]string{"count": fmt.Sprint(t.unnoted)},
		Rows:    []journal.Write{{ID: refusedRow(s.name), Plain: plain}},
	})
	if err != nil {
		return err
	}
	t.unnoted, t.noted = 0, now
	return nil
}

// Refusals lists the releases of a session that were refused, the latest first,
// for those who may read it.
func (c *CAS) Refusals(ctx context.Context, who Caller, name ident.SessionName) (owners.Refusals, error) {
	s, err := c.reading(ctx, name)
	if err != nil {
		return owners.Refusals{}, chained(err, "Failed to list the refused releases of session '%s'", name)
	}
	defer s.mu.RUnlock()
	if err := s.mayRead(who); err != nil {
		return owners.Refusals{}, chained(err, "Failed to list the refused releases of session '%s'", name)
	}

	s.trail.mu.Lock()
	defer s.trail.mu.Unlock()
	if err := s.loadRefusals(ctx, c.journal); err != nil {
		return owners.Refusals{}, err
	}
	out := owners.Refusals{Version: owners.Version, Refusals: append([]owners.Refusal{}, s.trail.refusals...)}
	slices.Reverse(out.Refusals)
	return out, nil
}
