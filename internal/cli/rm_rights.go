package cli

import (
	"context"
	"slices"
	"time"

	"cupel.dev/cupel/client"
	"cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// removal is an app that its manager calls removed, as its owner knows it: nobody runs it
// any more once its grants have ended.
type removal struct {
	g       *globals
	side    *ownerSide
	session ident.SessionName
	granted string // what its grants call it

	operator ident.KeyHash // by which the manager claims grants; zero: it isn't known
}

// removal is what the owner here knows of an app that a manager describes, or doesn't know
// any more; nil: nothing, as of another owner's.
func (g *globals) removal(ctx context.Context, at managerAt, m *manager.Client, ref string, says manager.App) (*removal, error) {
	if !g.haveOwnKey() {
		return nil, nil
	}
	side, err := g.ownerSide(ctx)
	if err != nil {
		return nil, err
	}
	deployed, err := g.deployed(side.dir)
	if err != nil {
		return nil, err
	}
	r := &removal{g: g, side: side}
	for _, called := range []string{says.ID, ref, says.Name} {
		if granted, app, known := deployed.At(g.place(), called); known && r.session == "" {
			r.session, r.granted = app.Session, granted
		}
	}
	if r.session == "" {
		sessions, err := side.dir.Sessions()
		if _, known := sessions[says.Session]; err != nil || !known || says.Owner != side.id.KeyHash {
			return nil, err
		}
		r.session, r.granted = says.Session, says.Name
	}
	r.operator, err = at.operatorKey(ctx, m)
	return r, err
}

// end sees to it that no grant is left by which the manager could run the app. It gives
// them back; one that it keeps is withdrawn with the owner's key. It reports whether there
// were any: where a session asks for none, the CAS knows nothing of an app's end.
func (r *removal) end(ctx context.Context) (ended bool, err error) {
	c, _, err := r.side.casOf(ctx, r.session, "")
	if err != nil {
		return false, err
	}
	defer c.Close()

	deadline := time.Now().Add(r.g.wait)
	for {
		all, err := r.side.grantsOf(ctx, c, r.session, r.granted, r.operator)
		if err != nil {
			return false, err
		}
		left := slices.DeleteFunc(slices.Clone(all), func(g api.Grant) bool { return g.State == api.GrantEnded })
		if len(left) == 0 {
			return len(all) > 0, nil
		}
		if time.Now().After(deadline) {
			return true, r.withdraw(ctx, c, left)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return false, err
		}
	}
}

func (r *removal) withdraw(ctx context.Context, c *client.Client, left []api.Grant) error {
	for _, grant := range left {
		ended, err := c.WithdrawGrant(ctx, grant.ID)
		if err != nil {
			return err
		}
		r.g.warnf("The manager says that %s is gone, and did not give grant %s back within %s: it is withdrawn now, with your key, and what ran under it has lost its rights.",
			r.granted, grant.ID.Short(), problem.Duration(r.g.wait))
		for _, lost := range ended.Lost {
			r.g.warnf("Warning: %s", lost)
		}
	}
	return nil
}

// grantsOf are the grants of this owner's for an app that an operator claimed, ended ones
// too; of any operator where it isn't known by which key.
func (o *ownerSide) grantsOf(ctx context.Context, c *client.Client, session ident.SessionName, app string, operator ident.KeyHash) ([]api.Grant, error) {
	all, err := c.Grants(ctx, session)
	return slices.DeleteFunc(all, func(g api.Grant) bool {
		return g.App != app || g.Maker != o.id.KeyHash || g.ClaimedBy.IsZero() || !operator.IsZero() && g.ClaimedBy != operator
	}), err
}

// over says that no grant is left by which any operator could run the app of a session, by
// the word of its CAS.
func (o *ownerSide) over(ctx context.Context, session ident.SessionName, app string) bool {
	c, _, err := o.casOf(ctx, session, "")
	if err != nil {
		return false
	}
	defer c.Close()
	asking, done := answered(ctx)
	defer done()
	all, err := o.grantsOf(asking, c, session, app, ident.KeyHash{})
	if err != nil {
		return problem.KindOf(err) == problem.NotFound // the session itself is gone
	}
	return len(all) > 0 && !slices.ContainsFunc(all, func(g api.Grant) bool { return g.State != api.GrantEnded })
}
