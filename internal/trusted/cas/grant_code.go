package cas

import (
	"crypto/subtle"
	"time"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

// coded returns the grant that a code opens. A code that was made up is told from
// nothing else, so that nobody learns which grants there are.
func (c *CAS) coded(code owners.GrantCode) (*grant, error) {
	if code.CAS != c.identity.hash {
		return nil, problem.New(problem.Denied, problem.RuleGrantOther, "the code is for CAS %s", code.CAS.Short()).
			Want("CAS %s", c.identity.hash.Short()).
			Fix("claim it at the CAS that made it")
	}

	g := c.grantNamed(code.Grant)
	if g != nil {
		g.mu.Lock()
		want := g.rec.Code
		g.mu.Unlock()
		if got := hashCode(code); subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			return g, nil
		}
	}
	return nil, problem.New(problem.Denied, problem.RuleGrantCode, "the code is none of this CAS's, or its grant was forgotten").
		Fix("ask the session's owner for a new one: cupel session submit")
}

// mayClaim refuses everybody but the first key, in time, under g.mu.
func (g *grant) mayClaim(who Caller, now time.Time) error {
	if why := g.over(now); why != "" {
		return problem.New(problem.Denied, problem.RuleGrantEnded, "grant %s %s", g.id, why).
			Want("a grant that holds").
			Fix("ask the session's owner for a new code: cupel session submit")
	}

	switch {
	case !g.rec.ClaimedBy.IsZero() && g.rec.ClaimedBy != who.Key:
		return problem.New(problem.Conflict, ruleGrantClaimed, "the code was used at %s, by another key", g.rec.Claimed.Format(time.RFC3339)).
			Want("a code that nobody used: each is good once").
			Fix("ask the session's owner for a new one, and to look who has this one: cupel session grants %s", g.session.name)
	case !g.rec.ClaimedBy.IsZero():
		return nil // the same key asks again
	case !now.Before(g.rec.UseBy):
		return problem.New(problem.Denied, problem.RuleGrantEnded, "the code was to be used before %s", g.rec.UseBy.Format(time.RFC3339)).
			Fix("ask the session's owner for a new one: cupel session submit")
	case !g.rec.Provider.IsZero() && g.rec.Provider != who.Key:
		return problem.New(problem.Denied, ruleGrantProvider, "the code is for another provider's key than %s", who.Key.Short()).
			Want("key %s", g.rec.Provider.Short()).
			Fix("hand it to the provider whose key the owner named")
	}
	return nil
}
