package cas

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/quota"
)

// kept is how many of a session's instances and grants that have ended are
// remembered. Those that lapsed may come back, and can't once they are forgotten.
type kept struct{ instances, lapsed, grants int }

var mostKept = kept{instances: 100, lapsed: 1000, grants: 20}

// forget drops the rows of what ended long ago.
func (c *CAS) forget(ctx context.Context) {
	share := c.shares(ctx)
	c.sessions.Range(func(_, v any) bool {
		s := v.(*sessionState)
		keep := share(s)
		if err := c.pruneInstances(ctx, s, keep.instances, keep.lapsed); err != nil {
			c.log.Warn("ended instances not pruned yet", "session", s.name, "error", err)
		}
		s.mu.RLock() // so that no removal comes between
		err := c.noteRefusals(ctx, s, c.now())
		s.mu.RUnlock()
		if err != nil {
			c.log.Warn("refused releases not recorded yet", "session", s.name, "error", err)
		}
		if err := c.pruneGrants(ctx, s, keep.grants); err != nil {
			c.log.Warn("ended grants not pruned yet", "session", s.name, "error", err)
		}
		return ctx.Err() == nil
	})
}

// pruneInstances drops the rows of ended instances beyond the last keep, and of those
// that lapsed beyond the last keepLapsed.
func (c *CAS) pruneInstances(ctx context.Context, s *sessionState, keep, keepLapsed int) error {
	s.memberMu.Lock()
	many := len(s.members) > min(keep, keepLapsed)
	s.memberMu.Unlock()
	if !many {
		return nil
	}

	s.mu.Lock() // so that none of them returns meanwhile
	defer s.mu.Unlock()

	var ended, lapsed []aged[*instance]
	for _, in := range s.all() {
		in.mu.Lock()
		switch in.rec.State {
		case owners.Running:
		case owners.Lapsed:
			lapsed = append(lapsed, aged[*instance]{in, in.rec.Ended})
		default:
			ended = append(ended, aged[*instance]{in, in.rec.Ended})
		}
		in.mu.Unlock()
	}
	drop := append(oldest(ended, keep), oldest(lapsed, keepLapsed)...)
	if len(drop) == 0 {
		return nil
	}

	ch := journal.Change{Event: owners.EventInstancesPruned, Session: s.name}
	for _, in := range drop {
		ch.Rows = append(ch.Rows, journal.Write{ID: instanceRow(in.id)})
	}
	if _, err := c.journal.Commit(ctx, ch); err != nil {
		return err
	}

	for _, in := range drop {
		s.leave(in.id)
		c.instances.Delete(in.id)
	}
	return nil
}

// pruneGrants drops the rows of ended grants beyond the last keep. Those that an
// instance is remembered for stay with it.
func (c *CAS) pruneGrants(ctx context.Context, s *sessionState, keep int) error {
	s.memberMu.Lock()
	many := len(s.grants) > keep
	named := map[*grant]bool{}
	for _, in := range s.members {
		named[in.grant] = true
	}
	s.memberMu.Unlock()
	if !many {
		return nil
	}

	var ended []aged[*grant]
	for _, g := range s.allGrants() {
		g.mu.Lock()
		if !g.rec.Ended.IsZero() && !named[g] {
			ended = append(ended, aged[*grant]{g, g.rec.Ended})
		}
		g.mu.Unlock()
	}
	drop := oldest(ended, keep)
	if len(drop) == 0 {
		return nil
	}

	ch := journal.Change{Event: owners.EventGrantsPruned, Session: s.name}
	for _, g := range drop {
		ch.Rows = append(ch.Rows, journal.Write{ID: grantRow(g.id)})
	}
	if _, err := c.journal.Commit(ctx, ch); err != nil {
		return err
	}

	s.memberMu.Lock()
	defer s.memberMu.Unlock()
	for _, g := range drop {
		delete(s.grants, g.id)
		c.grants.Delete(g.id)
	}
	return nil
}

// tally is how much of something each payer has.
type tally struct {
	keys      map[ident.KeyHash]int64
	addresses map[netip.Addr]int64
	total     int64
}

// add counts n to a payer.
func (t *tally) add(who payer, n int64) {
	if t.keys == nil {
		t.keys, t.addresses = map[ident.KeyHash]int64{}, map[netip.Addr]int64{}
	}
	t.keys[who.Key] += n
	t.addresses[who.Address] += n
	t.total += n
}

// part is how much of most a payer keeps whose tally is above the limits.
func (t *tally) part(who payer, most int, limit func(quota.Scope) int64) int {
	keep := int64(most)
	for of, n := range map[quota.Scope]int64{quota.PerKey: t.keys[who.Key], quota.PerAddress: t.addresses[who.Address], quota.InTotal: t.total} {
		if l := limit(of); n > l && (of != quota.PerAddress || who.Address.IsValid()) {
			keep = min(keep, int64(most)*l/n)
		}
	}
	return int(max(keep, 1))
}

// shares counts what ended and is remembered. The answer tells how much of it a
// session may keep: less than most, but the last one, where whoever it is counted to
// has more than the quota of grants, which is as much as may be alive; of what lapsed
// ten times as much.
func (c *CAS) shares(ctx context.Context) func(s *sessionState) kept {
	ended, lapsed := map[*sessionState]int64{}, map[*sessionState]int64{}
	c.instances.Range(func(_, v any) bool {
		switch in := v.(*instance); {
		case in.live.Load():
		case in.lapsed.Load():
			lapsed[in.session]++
		default:
			ended[in.session]++
		}
		return true
	})
	c.grants.Range(func(_, v any) bool {
		g := v.(*grant)
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.rec.Ended.IsZero() {
			ended[g.session]++
		}
		return true
	})

	var history, away tally
	for s, n := range ended {
		history.add(c.opener(ctx, s), n)
	}
	for s, n := range lapsed {
		away.add(c.opener(ctx, s), n)
	}
	limit := func(of quota.Scope) int64 { return c.ledger.quotas.Limit(of, quota.Grants) }
	wider := func(of quota.Scope) int64 { return 10 * limit(of) }
	return func(s *sessionState) kept {
		if ended[s]+lapsed[s] == 0 {
			return mostKept
		}
		who := c.opener(ctx, s)
		return kept{
			instances: history.part(who, mostKept.instances, limit),
			lapsed:    away.part(who, mostKept.lapsed, wider),
			grants:    history.part(who, mostKept.grants, limit),
		}
	}
}

// opener is whom a session is counted to, whether it is loaded or not.
func (c *CAS) opener(ctx context.Context, s *sessionState) payer {
	if who := s.opener.Load(); who != nil {
		return *who
	}
	rec, err := c.sessionRecord(ctx, s.name)
	if err != nil {
		return payer{} // counted in total alone, until it can be read
	}
	s.opener.CompareAndSwap(nil, &rec.Opened)
	return rec.Opened
}

// An aged is something that ended, and when it did.
type aged[T any] struct {
	of T
	at time.Time
}

// oldest lists those that ended before the last keep, so that they can be
// dropped: none until there are a quarter more, for dropping costs a commit.
func oldest[T any](ended []aged[T], keep int) []T {
	if len(ended) <= keep+keep/4 {
		return nil
	}
	slices.SortFunc(ended, func(a, b aged[T]) int { return b.at.Compare(a.at) })
	drop := make([]T, 0, len(ended)-keep)
	for _, e := range ended[keep:] {
		drop = append(drop, e.of)
	}
	return drop
}
