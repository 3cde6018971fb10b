package cli

import (
	"context"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
)

// ending is how a deployment ended.
type ending struct {
	done      bool // the manager says so
	confirmed bool // and nothing speaks against it
}

// lastLook is how long somebody who stopped waiting waits for the CAS all the same.
const lastLook = 2 * time.Second

// settleGrants sees to it that of the app's grants exactly one is left, and that the one
// which this command made is in nobody's hands where it came to nothing. What can't be
// settled is named, with the command that does it. Of a deployment that goes on alone only
// a grant that nobody has claimed is taken, if the CAS says at once that there is one.
func (d *deployment) settleGrants(ctx context.Context, end ending, goesOnAlone bool) error {
	if d.made == nil {
		return nil
	}

	most := d.g.wait + withdrawTimeout
	if goesOnAlone {
		most = lastLook
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), most)
	defer cancel()

	all, err := d.cas.Grants(ctx, d.session)
	unclaimed := slices.ContainsFunc(all, func(g owners.Grant) bool { return g.ID == d.made.ID && g.State == owners.GrantOpen })
	switch {
	case err != nil && goesOnAlone:
		return nil
	case err != nil: // it is named below
	case unclaimed: // it claims a code before it says that it took the request
		if d.withdrawn = d.g.withdraw(ctx, d.cas, *d.made); d.withdrawn {
			d.g.warnf("The manager took the code of grant %s and has not claimed it: it is withdrawn, and no deployment goes on under it.", d.made.ID.Short())
		}

		if end.confirmed {
			err = problem.New(problem.Denied, ruleGrantUnclaimed, "the manager says that the deployment is done, and has not claimed its grant %s", d.made.ID.Short()).
				Want("a deployment under the grant that was made for it").
				Fix("the manager says so and the CAS does not: deploy again, and ask the operator")
		}
		return err
	case goesOnAlone:
		return nil
	default:
		err = d.leaveOne(ctx, end)
	}

	if err == nil && end.confirmed {
		d.nameOpen(all)
	}

	if err != nil && !end.confirmed {
		d.g.warnf("Whether the grant %s that was made for this has ended is not known: %v", d.made.ID.Short(), err)
		d.g.warnf("  withdraw it: %s", withdrawCommand(d.session, d.made.ID.Short()))
	}

	return err
}

// nameOpen tells of codes for the same app that nobody has used: whoever has one of them
// could still run the app by it. They may be meant so, as those of 'session submit'.
func (d *deployment) nameOpen(all []owners.Grant) {
	for _, g := range all {
		if g.State != owners.GrantOpen || g.ID == d.made.ID || g.App != d.made.App || g.Maker != d.made.Maker || !d.g.now().Before(g.UseBy) {
			continue
		}

		d.g.warnf("Grant %s for %s, of %s, is still open: who has its code can run the app by it, until %s.\n  if it isn't meant so: %s",
			g.ID.Short(), g.App, g.Made.Local().Format(time.DateTime), g.UseBy.Local().Format(time.DateTime), withdrawCommand(d.session, g.ID.Short()))
	}
}

// leaveOne sees to it that of the app's grants exactly one is left: the new one
// after a success, the one before after a failure. The manager gives the other
// back; one that it keeps is withdrawn with the owner's key.
func (d *deployment) leaveOne(ctx context.Context, end ending) error {
	deadline := time.Now().Add(d.g.wait)
	for {
		left, err := d.leftover(ctx, end)
		if err != nil || len(left) == 0 {
			return err
		}

		if time.Now().After(deadline) {
			return d.g.withdrawKept(ctx, d.cas, left, "The manager")
		}

		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// leftover are the app's grants that should have ended by now: those that the
// manager of this deployment has. What the owner submitted elsewhere, claimed or
// not, is no part of it.
func (d *deployment) leftover(ctx context.Context, end ending) ([]owners.Grant, error) {
	all, err := d.cas.Grants(ctx, d.session)
	if err != nil {
		return nil, err
	}

	var provider ident.KeyHash
	won := end.done
	for _, g := range all {
		if g.ID == d.made.ID {
			provider = g.ClaimedBy
			// That it is done is the manager's word. Where the CAS knows of nobody who runs
			// by the new grant, what ran before goes on.
			won = won && (end.confirmed || inUse(g))
		}
	}

	return slices.DeleteFunc(all, func(g owners.Grant) bool {
		if g.State == owners.GrantEnded {
			return true
		}
		if !won {
			return g.ID != d.made.ID
		}

		// A deployment that began later is another command's to look after.
		ours := g.App == d.made.App || d.app != nil && d.app.Grant != nil && *d.app.Grant == g.ID
		return g.ID == d.made.ID || g.ClaimedBy.IsZero() || g.ClaimedBy != provider || !ours || g.Maker != d.made.Maker || !g.Made.Before(d.made.Made)
	}), nil
}

// withdrawKept ends grants that the manager should have given back; who begins the sentence
// that says so.
func (g *globals) withdrawKept(ctx context.Context, c *client.CAS, left []owners.Grant, who string) error {
	for _, grant := range left {
		ended, err := c.WithdrawGrant(ctx, grant.ID)
		if err != nil {
			return err
		}

		g.warnf("%s did not give grant %s back within %s: it is withdrawn now, with your key, and what ran under it has lost its rights.", who, grant.ID.Short(), problem.Duration(g.wait))
		for _, lost := range ended.Lost {
			g.warnf("Warning: %s", lost)
		}
	}
	return nil
}
