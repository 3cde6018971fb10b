package cli

import (
	"context"
	"slices"
	"time"

	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/plain"
	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/owner"
	"cupel.dev/cupel/internal/trusted/problem"
)

// grantsOf are those of an app's grants that haven't ended, by the word of its session's
// CAS: none of a session that is gone. The caller closes the client, which is nil with an
// error.
func (o *ownerSide) grantsOf(ctx context.Context, app owner.DeployedApp) (left []api.Grant, c *client.Client, err error) {
	if c, _, err = o.casOf(ctx, app.Session, app.CAS); err != nil {
		return nil, nil, err
	}
	all, err := c.Grants(ctx, app.Session)
	if err != nil && problem.KindOf(err) != problem.NotFound {
		c.Close()
		return nil, nil, err
	}
	return slices.DeleteFunc(all, func(g api.Grant) bool {
		return g.State == api.GrantEnded || !slices.Contains(app.Grants, g.ID)
	}), c, nil
}

// over says that an app can't run any more, by the word of its session's CAS. Of one whose
// grants aren't remembered here nobody knows.
func (o *ownerSide) over(ctx context.Context, app owner.DeployedApp) bool {
	if len(app.Grants) == 0 {
		return false
	}
	asking, done := answered(ctx)
	defer done()
	left, c, err := o.grantsOf(asking, app)
	if err != nil {
		return false
	}
	c.Close()
	return len(left) == 0
}

// endRights sees to it that no grant is left by which the manager could run an app that it
// removed. It gives them back; one that it keeps is withdrawn with the owner's key.
func (o *ownerSide) endRights(ctx context.Context, called string, app owner.DeployedApp) error {
	deadline := time.Now().Add(o.g.wait)
	for {
		left, c, err := o.grantsOf(ctx, app)
		if err != nil {
			return err
		}
		if len(left) > 0 && time.Now().After(deadline) {
			err = o.withdrawAll(ctx, c, called, left)
		}
		c.Close()
		if len(left) == 0 || err != nil || time.Now().After(deadline) {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func (o *ownerSide) withdrawAll(ctx context.Context, c *client.Client, called string, left []api.Grant) error {
	for _, grant := range left {
		ended, err := c.WithdrawGrant(ctx, grant.ID)
		if err != nil {
			return err
		}
		o.g.warnf("The manager says that %s is gone, and did not give grant %s back within %s: it is withdrawn now, with your key, and what ran under it has lost its rights.",
			called, grant.ID.Short(), problem.Duration(o.g.wait))
		for _, lost := range ended.Lost {
			o.g.warnf("Warning: %s", lost)
		}
	}
	return nil
}

// unconfirmed is what is said of an app that is gone by the manager's word alone, though
// the CAS would have to know it.
func unconfirmed(called string, app owner.DeployedApp, err error) *problem.Error {
	return problem.New(problem.Unavailable, "rm_unconfirmed", "the manager says that %s is gone, and whether its grant has ended is not known: %s", called, plain.Reason(problem.From(err))).
		Want("the CAS's word, as what has a grant keeps its secrets").
		Fix("run this again when the CAS answers; or see 'cupel session grants %s', and end what is left with --withdraw", app.Session)
}

// known is what is remembered here of an app, by its id at the manager or what that calls
// it; false: nothing.
func (o *ownerSide) known(called string) (owner.DeployedApp, bool, error) {
	all, err := o.g.deployed(o.dir)
	if err != nil {
		return owner.DeployedApp{}, false, err
	}
	_, app, known := all.At(o.g.place(), called)
	return app, known, nil
}
