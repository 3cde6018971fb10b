package cas

import (
	"context"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/quota"
	"cupel.dev/cupel/internal/trusted/wire"
)

// endGrant commits the end of a grant and of its instances' rights, with the
// session locked for writing, and says what that loses. One that has ended stays
// as it is.
func (c *CAS) endGrant(ctx context.Context, g *grant, reason string, who Caller) (lost []string, err error) {
	ends, err := c.grantEnding(ctx, g, reason, who, c.now().UTC())
	if err != nil {
		return nil, err
	}
	if err := c.commitEnds(ctx, nil, ends); err != nil {
		return nil, err
	}
	return lostBy(ends), nil
}

// commitEnds commits ends in one transaction, between what comes before and after
// them, with their session locked for writing. Where there is nothing to commit it
// does nothing.
func (c *CAS) commitEnds(ctx context.Context, before []journal.Change, ends []ending, after ...journal.Change) error {
	changes := slices.Clone(before)
	for _, e := range ends {
		changes = append(changes, e.change)
	}
	changes = append(changes, after...)
	if len(changes) == 0 {
		return nil
	}
	if _, err := c.journal.Commit(ctx, changes...); err != nil {
		return err
	}
	for _, e := range ends {
		e.apply()
	}
	return nil
}

// grantEnding works out what the end of a grant changes, with the session locked
// for writing: its row, and every instance that has rights by it.
func (c *CAS) grantEnding(ctx context.Context, g *grant, reason string, who Caller, now time.Time) ([]ending, error) {
	g.mu.Lock()
	next := g.rec
	g.mu.Unlock()
	if !next.Ended.IsZero() {
		return nil, nil
	}

	next.Ended, next.Reason = now, reason
	row, err := g.put(next)
	if err != nil {
		return nil, err
	}
	out := []ending{{
		change: journal.Change{
			Event:   owners.EventGrantEnded,
			Actor:   who.Key,
			Request: who.Request,
			Session: g.session.name,
			Detail:  map[string]string{"grant": g.id.String(), "reason": reason},
			Rows:    []journal.Write{row},
		},
		apply: func() {
			g.mu.Lock()
			g.rec = next
			g.mu.Unlock()
			c.ledger.give(next.payer(), quota.Amounts{quota.Grants: 1})
		},
	}}

	for _, in := range g.session.all() {
		if in.grant != g || in.rec.State != owners.Running {
			continue
		}
		rec := in.rec
		rec.State, rec.Ended = owners.Withdrawn, now
		e, err := c.ending(ctx, in, rec, journal.Change{Event: owners.EventInstanceWithdrawn, Actor: who.Key, Request: who.Request})
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// leftOut works out which grants a new version ends, because its deploy leaves
// their makers out, with the session locked for writing.
func (c *CAS) leftOut(ctx context.Context, s *sessionState, who Caller, p *plan, now time.Time) (map[*grant]bool, []ending, error) {
	withdrawn := map[*grant]bool{}
	var out []ending
	for _, g := range s.allGrants() {
		if !p.session.Access.EndsGrant(g.rec.Maker, g.rec.AsCreator) {
			continue
		}

		ends, err := c.grantEnding(ctx, g, owners.EndPolicy, who, now)
		if err != nil {
			return nil, nil, err
		}
		if len(ends) > 0 {
			withdrawn[g] = true
			out = append(out, ends...)
		}
	}
	return withdrawn, out, nil
}

// endOverdueGrants ends those whose time is over and those that nobody claimed in
// time, so that what runs under them is told: many of a session in one commit.
func (c *CAS) endOverdueGrants(ctx context.Context, now time.Time) {
	overdue := map[*sessionState][]*grant{}
	c.grants.Range(func(_, v any) bool {
		if g := v.(*grant); g.overdue(now) != "" {
			overdue[g.session] = append(overdue[g.session], g)
		}
		return true
	})

	for s, grants := range overdue {
		for some := range slices.Chunk(grants, journal.MaxGroup) {
			if err := c.endOverdue(ctx, s, some, now); err != nil {
				c.log.Warn("ends of grants not recorded yet", "session", s.name, "error", err)
			}
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// overdue is why the grant is to end by itself, empty if it isn't.
func (g *grant) overdue(now time.Time) string {
	g.mu.Lock()
	defer g.mu.Unlock()

	switch {
	case !g.rec.Ended.IsZero():
		return ""
	case !g.rec.Until.IsZero() && !now.Before(g.rec.Until):
		return owners.EndUntil
	case g.rec.ClaimedBy.IsZero() && !now.Before(g.rec.UseBy):
		return owners.EndUnused
	}
	return ""
}

// endOverdue ends some of a session's grants in one commit.
func (c *CAS) endOverdue(ctx context.Context, s *sessionState, grants []*grant, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	var ends []ending
	for _, g := range grants {
		reason := g.overdue(now) // it may have been claimed just now
		if reason == "" {
			continue
		}

		more, err := c.grantEnding(ctx, g, reason, Caller{}, now.UTC())
		if err != nil {
			return err
		}
		ends = append(ends, more...)
	}
	return c.commitEnds(ctx, nil, ends)
}

// GiveBack ends the grant whose token the caller holds.
func (c *CAS) GiveBack(ctx context.Context, who Caller, req owners.GiveBack) error {
	if err := checkVersion(req.Version); err != nil {
		return err
	}
	g, err := c.holder(req.Grant)
	if err != nil {
		return err
	}

	g.mu.Lock()
	ended := !g.rec.Ended.IsZero()
	g.mu.Unlock()
	if ended { // its session may be no more, either
		return nil
	}

	s, err := c.writing(ctx, g.session.name)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	_, err = c.endGrant(ctx, g, owners.EndGivenBack, who)
	return err
}

// Claim gives the token of a code to the key that asks for it first, and to no
// other ever after.
func (c *CAS) Claim(ctx context.Context, who Caller, req owners.Claim) (owners.ClaimReply, error) {
	if err := checkVersion(req.Version); err != nil {
		return owners.ClaimReply{}, err
	}
	code, err := owners.ParseGrantCode(req.Code)
	if err != nil {
		return owners.ClaimReply{}, err
	}
	g, err := c.coded(code)
	if err != nil {
		return owners.ClaimReply{}, err
	}
	s, err := c.reading(ctx, g.session.name)
	if err != nil {
		return owners.ClaimReply{}, err
	}
	defer s.mu.RUnlock()

	g.mu.Lock()
	defer g.mu.Unlock()
	now := c.now().UTC()
	if err := g.mayClaim(who, now); err != nil {
		return owners.ClaimReply{}, err
	}
	if g.rec.ClaimedBy.IsZero() {
		if err := c.claim(ctx, g, who, now); err != nil {
			return owners.ClaimReply{}, err
		}
	}
	return c.claimReply(s, g), nil
}

// claim commits that the caller's key has the grant, under g.mu.
func (c *CAS) claim(ctx context.Context, g *grant, who Caller, now time.Time) error {
	next := g.rec
	next.ClaimedBy, next.Claimed = who.Key, now
	row, err := g.put(next)
	if err != nil {
		return err
	}

	_, err = c.journal.Commit(ctx, journal.Change{
		Event:   owners.EventGrantClaimed,
		Actor:   who.Key,
		Request: who.Request,
		Session: g.session.name,
		Detail:  map[string]string{"grant": g.id.String()},
		Rows:    []journal.Write{row},
	})
	if err == nil {
		g.rec = next
	}
	return err
}

// claimReply is the grant for its holder, under s.mu and g.mu.
func (c *CAS) claimReply(s *sessionState, g *grant) owners.ClaimReply {
	out := owners.ClaimReply{
		Version:  wire.ReleaseVersion,
		Grant:    g.id,
		Session:  s.name,
		App:      g.rec.App,
		Maker:    g.rec.Maker,
		Services: map[ident.ServiceName]owners.GrantedService{},
		Token:    c.token(g.id, g.rec.ClaimedBy),
	}

	if !g.rec.Until.IsZero() {
		until := g.rec.Until
		out.Until = &until
	}
	for name, svc := range g.rec.Services {
		out.Services[name] = owners.GrantedService{Instances: svc.Instances, Runs: svc.Runs, Writes: s.plan.writes(name)}
	}
	return out
}
