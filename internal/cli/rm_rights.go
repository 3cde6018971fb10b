package cli

import (
	"context"
	"slices"
	"time"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/home"
	"cupel.dev/cupel/internal/wording"
)

// grantsOf are those of an app's grants that haven't ended, by the word of its session's
// CAS: none of a session that is gone.
func grantsOf(ctx context.Context, c *client.CAS, app home.DeployedApp) ([]owners.Grant, error) {
	all, err := c.Grants(ctx, app.Session)
	if err != nil && problem.KindOf(err) != problem.NotFound {
		return nil, err
	}

	return slices.DeleteFunc(all, func(g owners.Grant) bool {
		return g.State == owners.GrantEnded || !slices.Contains(app.Grants, g.ID)
	}), nil
}

// leftOf returns what grantsOf does, over a connection of its own.
func (o *ownerSide) leftOf(ctx context.Context, app home.DeployedApp) ([]owners.Grant, error) {
	c, _, err := o.casOf(ctx, app.Session, app.CAS)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return grantsOf(ctx, c, app)
}

// over says that an app can't run any more, by the word of its session's CAS. Of one whose
// grants aren't remembered here nobody knows.
func (o *ownerSide) over(ctx context.Context, app home.DeployedApp) bool {
	if len(app.Grants) == 0 {
		return false
	}

	asking, done := answered(ctx)
	defer done()

	left, err := o.leftOf(asking, app)
	return err == nil && len(left) == 0
}

// endRights sees to it that no grant is left by which the manager could run an app that it
// removed. It gives them back; one that it keeps is withdrawn with the owner's key.
func (o *ownerSide) endRights(ctx context.Context, called string, app home.DeployedApp) error {
	c, _, err := o.casOf(ctx, app.Session, app.CAS)
	if err != nil {
		return err
	}
	defer c.Close()

	deadline := time.Now().Add(o.g.wait)
	for {
		left, err := grantsOf(ctx, c, app)
		if err != nil || len(left) == 0 {
			return err
		}

		if time.Now().After(deadline) {
			return o.g.withdrawKept(ctx, c, left, "The manager says that "+called+" is gone, and")
		}

		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// unconfirmed is what is said of an app that is gone by the manager's word alone, though
// the CAS would have to know it.
func unconfirmed(called string, app home.DeployedApp, err error) *problem.Error {
	return problem.New(problem.Unavailable, ruleRmUnconfirmed, "the manager says that %s is gone, and whether its grant has ended is not known: %s", called, wording.Reason(problem.From(err))).
		Want("the CAS's word, as what has a grant keeps its secrets").
		Fix("run this again when the CAS answers; or see 'cupel session grants %s', and end what is left with --withdraw", app.Session)
}
