package cas

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
)

// rowsPerEntry bounds the entries that a removal makes in the log.
const rowsPerEntry = 250

// RemoveSession drops a session with all its versions, values and volume keys,
// and ends its grants and the rights of its instances. There is no way back: what
// volumes hold can't be read by anybody afterwards.
//
// The name stays its creator's: another's session of that name would have the
// launch binding of this one.
func (c *CAS) RemoveSession(ctx context.Context, who Caller, name ident.SessionName) (owners.Removed, error) {
	out, err := c.removeSession(ctx, who, name)
	return out, chained(err, "Failed to remove session '%s'", name)
}

func (c *CAS) removeSession(ctx context.Context, who Caller, name ident.SessionName) (owners.Removed, error) {
	s, err := c.updating(ctx, who, name)
	if err != nil {
		return owners.Removed{}, err
	}
	defer s.mu.Unlock()

	if err := c.childless(ctx, name); err != nil {
		return owners.Removed{}, err
	}
	return c.remove(ctx, who, s)
}

// childless refuses a namespace that has sessions, with its own session locked
// for writing: nobody can create one meanwhile. They would stay without those
// rights that the namespace's session gives.
func (c *CAS) childless(ctx context.Context, name ident.SessionName) error {
	const named = 3
	var children []string
	more := 0

	for _, row := range c.journal.IDs(sessionRow(name) + "/") {
		child := ident.SessionName(strings.TrimPrefix(string(row), prefixSession))
		rec, err := c.sessionRecord(ctx, child)
		if err != nil {
			return err
		}
		switch {
		case rec.Hash.IsZero():
		case len(children) < named:
			children = append(children, string(child))
		default:
			more++
		}
	}

	if len(children) == 0 {
		return nil
	}
	if more > 0 {
		children = append(children, fmt.Sprintf("%d more", more))
	}
	return problem.New(problem.Conflict, ruleSessionHasChildren, "session %q is the namespace of %s", name, strings.Join(children, ", ")).
		Want("a session without sessions below it").
		Fix("remove those first, the deepest before the others")
}

// remove commits the end of a session, under s.mu held for writing.
func (c *CAS) remove(ctx context.Context, who Caller, s *sessionState) (owners.Removed, error) {
	now := c.now().UTC()
	was := s.current
	rec := sessionRecord{
		Creator: was.Creator,
		Updated: now,
		Count:   was.Count,
		Opened:  was.Opened,
		Removed: now,
	}
	row, err := json.Marshal(rec)
	if err != nil {
		return owners.Removed{}, fmt.Errorf("marshal session: %w", err)
	}

	ends, out, err := c.allEnds(ctx, s, who, now)
	if err != nil {
		return owners.Removed{}, err
	}

	rows := c.rowsOf(s.name)
	out.Session = s.name
	out.Hash = was.Hash
	out.Versions = countPrefix(rows, prefixVersion)
	for _, v := range s.plan.session.Volumes {
		out.Volumes = append(out.Volumes, v.Name)
	}
	slices.Sort(out.Volumes)

	removal := journal.Change{
		Event:   owners.EventSessionRemoved,
		Actor:   who.Key,
		Request: who.Request,
		Session: s.name,
		Detail:  map[string]string{"versions": fmt.Sprint(out.Versions)},
		Rows:    []journal.Write{{ID: sessionRow(s.name), Plain: row}},
	}
	if err := c.commitEnds(ctx, []journal.Change{removal}, ends, dropping(s.name, who, rows)...); err != nil {
		return owners.Removed{}, err
	}

	c.ledger.countSession(was, -1)
	c.ledger.countSession(rec, 1)
	c.loaded.Add(-s.weight)
	s.current = rec
	s.plan = nil
	s.weight = 0
	s.forget()
	s.trail.reset()
	return out, nil
}

// allEnds works out how all grants and all instances of a session end, under s.mu
// held for writing.
func (c *CAS) allEnds(ctx context.Context, s *sessionState, who Caller, now time.Time) ([]ending, owners.Removed, error) {
	out := owners.Removed{Version: owners.Version, Volumes: []string{}}
	var ends []ending
	for _, g := range s.allGrants() {
		more, err := c.grantEnding(ctx, g, owners.EndOfSession, who, now)
		if err != nil {
			return nil, out, err
		}
		if len(more) > 0 {
			out.Grants++
			out.Instances += len(more) - 1
			ends = append(ends, more...)
		}
	}

	for _, in := range s.all() { // those that run under no grant
		if in.grant != nil || in.rec.State != owners.Running {
			continue
		}
		rec := in.rec
		rec.State, rec.Ended = owners.Withdrawn, now
		e, err := c.ending(ctx, in, rec, journal.Change{Event: owners.EventInstanceWithdrawn, Actor: who.Key, Request: who.Request})
		if err != nil {
			return nil, out, err
		}
		out.Instances++
		ends = append(ends, e)
	}
	return ends, out, nil
}

// rowsOf lists the rows of a session that go with it. Those of its grants and
// instances stay for a while, so that who holds them is told why they ended.
func (c *CAS) rowsOf(name ident.SessionName) []journal.RowID {
	var out []journal.RowID
	for _, prefix := range []journal.RowID{prefixVersion, prefixSecret, prefixVolume} {
		for _, row := range c.journal.IDs(prefix + journal.RowID(name) + "@") {
			if i := strings.LastIndexByte(string(row), '@'); row[:i] == prefix+journal.RowID(name) {
				out = append(out, row)
			}
		}
	}

	for _, row := range []journal.RowID{refusedRow(name), rotationRow(name)} {
		if c.journal.Has(row) {
			out = append(out, row)
		}
	}
	return out
}

// countPrefix is how many rows begin with prefix.
func countPrefix(rows []journal.RowID, prefix string) int {
	n := 0
	for _, row := range rows {
		if strings.HasPrefix(string(row), prefix) {
			n++
		}
	}
	return n
}

// dropping makes the changes that remove rows.
func dropping(name ident.SessionName, who Caller, rows []journal.RowID) []journal.Change {
	var out []journal.Change
	for chunk := range slices.Chunk(rows, rowsPerEntry) {
		ch := journal.Change{
			Event:   owners.EventSessionRemoved,
			Actor:   who.Key,
			Request: who.Request,
			Session: name,
			Detail:  map[string]string{"rows": fmt.Sprint(len(chunk))},
		}
		for _, row := range chunk {
			ch.Rows = append(ch.Rows, journal.Write{ID: row})
		}
		out = append(out, ch)
	}
	return out
}

// nameKept refuses to create a session of a name that was another key's.
func nameKept(name ident.SessionName) *problem.Error {
	p := problem.New(problem.Denied, ruleSessionNameKept, "a session %q was removed, and its name stays its creator's", name).
		Want("the key that had created it").
		Fix("choose another name")
	p.Msg = []string{fmt.Sprintf("You have insufficient rights to create session %s", name)}
	return p
}
