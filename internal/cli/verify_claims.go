package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/verify/appraise"
	"cupel.dev/cupel/internal/trusted/wire"
)

// checkInstances lists the session's instances and holds the claims of those
// that run against the session's text: the CAS did that before it released
// anything, and here it can be seen to have.
func (o *ownerSide) checkInstances(ctx context.Context, c *client.CAS, name ident.SessionName) (*running, error) {
	text, err := c.ReadSession(ctx, name, nil)
	if err != nil {
		return nil, err
	}

	r := &running{me: o.id.KeyHash}
	if r.session, err = session.Parse([]byte(text.Text)); err != nil {
		return nil, err
	}
	if r.state, err = c.State(ctx, name); err != nil {
		return nil, err
	}
	if r.grants, err = c.Grants(ctx, name); err != nil {
		return nil, err
	}
	r.grants = slices.DeleteFunc(r.grants, func(g owners.Grant) bool { return g.State == owners.GrantEnded })

	pin, _ := c.Pin()
	for _, i := range r.state.Instances {
		if i.State != owners.Running {
			continue
		}
		if err := checkInstance(r.session, pin.Identity, i); err != nil {
			return nil, err
		}
	}

	return r, nil
}

func checkInstance(s *session.Session, cas ident.KeyHash, i owners.Instance) error {
	refuse := func(format string, args ...any) error {
		return problem.New(problem.Denied, ruleInstanceClaims, "instance %s of %s: %w", i.ID.Short(), i.Service, fmt.Errorf(format, args...)).
			Fix("do not use the app, and do not trust this CAS: it released to what your session excludes")
	}

	service, ok := s.Service(i.Service)
	if !ok {
		return refuse("the session has no such service")
	}
	if want := wire.LaunchBinding(cas, s.Name, i.Service); i.Claims.LaunchBinding != want {
		return refuse("launched for another CAS, session or service")
	}

	// The very appraisal that the CAS made. Report data can't be judged here: it
	// names a connection that has ended.
	policy := s.Policy(service)
	policy.ReportData = &i.Claims.ReportData
	policy.LaunchBinding = &i.Claims.LaunchBinding
	decision, err := appraise.Appraise(policy, i.Claims)
	if err == nil {
		err = decision.Err()
	}
	if err != nil && slices.Contains(s.Security.Tolerate, evidence.Simulation) && acceptedUnder(policy, i.Claims) {
		// Nothing but the root is missing, in a session from before it was named.
		return problem.New(problem.Denied, ruleSimulationUnnamed, "instance %s of %s runs on a simulated platform, and the session tolerates simulation without naming its root",
			i.ID.Short(), i.Service).
			Want("`tolerate: [\"simulation:SHA256\"]`, with the root that you trusted").
			Fix("take a new template (cupel template --simulation), update the session (cupel session create --update) and deploy")
	}

	if err != nil {
		return refuse("the session does not accept its claims: %w", err)
	}
	return nil
}

// acceptedUnder reports whether claims would be accepted if the policy tolerated
// the simulated root that they are under.
func acceptedUnder(policy appraise.Policy, claims evidence.Claims) bool {
	policy.Tolerate = append(slices.Clone(policy.Tolerate), evidence.SimulationUnder(claims.Root))
	decision, err := appraise.Appraise(policy, claims)
	return err == nil && decision.Err() == nil
}

// rotatedMeanwhile adds to a refused certificate that the session's CA was rotated
// and that instances have certificates of the one before: that may be all.
func rotatedMeanwhile(ctx context.Context, c *client.CAS, name ident.SessionName, err error) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		return err
	}

	list, rerr := c.Rotations(ctx, name)
	if rerr != nil {
		return err // that it can't be told is no matter here
	}

	for _, r := range list.Secrets {
		if r.Name == appCA && len(r.Old) > 0 {
			p := *problem.From(err)
			return p.Fix("%s was rotated on %s, and there is %s a certificate of the one before: replace them (cupel deploy), then verify again; if it stays so, do not use the app",
				appCA, r.Rotated.UTC().Format(time.RFC3339), problem.Count(len(r.Old), "running instance")+" with")
		}
	}

	return err
}
