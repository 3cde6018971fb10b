package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/wording"
)

// goesOn says what to do about a deployment that nobody waits for any more.
func goesOn(app manager.App) string {
	watch := "watch it with 'cupel events " + app.Name + " -f'; "
	if app.Revision > 0 && app.Revision != app.Deployment.Revision {
		stopped := slices.ContainsFunc(app.Deployment.Steps, func(s manager.Step) bool { return s.Name == manager.StepStop })
		switch {
		case stopped && app.Healthy == 0:
			return watch + "nothing serves meanwhile: the revision before was stopped for it, and comes back if it fails; another 'cupel deploy' replaces it"
		case app.Healthy == 0:
			return watch + "nothing serves meanwhile: the revision before runs, but no instance of it accepts connections ('cupel ps " + app.Name + "'); another 'cupel deploy' replaces it"
		}
		return watch + "until it is done the revision before serves; another 'cupel deploy' replaces it"
	}
	return watch + "end it with 'cupel rm --app " + app.Name + "'"
}

var errDeployTimeout = errors.New("timeout of the deployment")

// outOfTime says that --timeout ended the command before the deployment could be seen.
func (d *deployment) outOfTime(ctx context.Context, err error) error {
	ended := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if !ended || !errors.Is(context.Cause(ctx), errDeployTimeout) {
		return err
	}

	return problem.New(problem.Unavailable, ruleDeployTimeout, "the deployment of session %s was not seen to begin within %s", d.session, problem.Duration(d.o.timeout)).
		Fix("see with 'cupel ps' whether it runs, and give more time: --timeout 10m")
}

// follow shows the deployment's steps until it ends.
func (d *deployment) follow(ctx context.Context, app manager.App) (manager.App, error) {
	revision := app.Deployment.Revision
	for {
		if app.Deployment.Revision != revision {
			return app, problem.New(problem.Conflict, ruleDeploySuperseded, "another deployment of %s began (revision %d)", app.Name, app.Deployment.Revision).
				Fix("see with 'cupel ps' what runs now, and who else deploys with your key; where it should be this one, run this again")
		}

		d.pulling = app
		d.show.update(app.Deployment, d.g.now())
		switch app.Deployment.State {
		case manager.DeploymentDone:
			return app, nil
		case manager.DeploymentFailed:
			d.explain(ctx, app, app.Deployment.Problem)
			return app, d.failed(app.Deployment)
		}

		select {
		case <-ctx.Done():
			return app, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}

		next, err := d.manager.App(ctx, ident.AppRef(app.ID))
		if err != nil {
			if problem.KindOf(err) == problem.NotFound {
				err = problem.New(problem.Conflict, problem.RuleAppRemoved, "%s was removed during its deployment", app.Name)
			}

			if problem.From(err).Rule == client.RuleAway && d.patient(ctx) {
				continue // it restarts: the deployment goes on with it
			}
			return app, err
		}

		app = next
	}
}

// failed is the end of a deployment that the manager calls failed. An app that ended has
// an exit code of its own.
func (d *deployment) failed(how manager.Deployment) error {
	switch {
	case how.Problem == nil:
		return problem.New(problem.Unavailable, ruleDeployFailed, "the manager says that the deployment failed, and not why")
	case slices.Contains(appEnds, how.Problem.Rule):
		return codedError{codeAppEnded, how.Problem}
	case how.Problem.Rule == problem.RuleMeasurement:
		p := *how.Problem
		return p.Fix("%s", measurementMend(d.session, d.recorded, d.asked.Runtime, d.o.runtime != ""))
	}
	return how.Problem
}

// appEnds are the rules of an app that ended by itself.
var appEnds = []problem.Rule{problem.RuleAppEnded, problem.RuleExited}

// endedSince says that an instance that was healthy ended before this command did, as one
// does whose first process leaves the work to another and ends. What the CAS knows of an
// end already, the manager is asked about until it says why.
func (d *deployment) endedSince(ctx context.Context, app manager.App, checked []manager.Instance) error {
	deadline := time.Now().Add(d.g.wait)
	for {
		list, err := d.manager.Instances(ctx, ident.AppRef(app.ID))
		if err != nil && problem.From(err).Rule == client.RuleAway && d.patient(ctx) {
			continue
		}
		if err != nil {
			return err
		}

		for _, i := range list {
			if i.Role == manager.RoleApp && i.Revision == app.Revision && endedOnce(app, i) {
				return d.endedHealthy(ctx, app, i)
			}
		}

		known, err := d.cas.Instances(ctx, d.session)
		if err != nil {
			return err
		}

		gone := slices.ContainsFunc(known, func(k owners.Instance) bool { return k.State == owners.Exited && among(checked, k.ID) })
		if !gone || time.Now().After(deadline) {
			return nil
		}

		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// endedOnce says that the app ended by itself in an instance that had been healthy when
// the deployment went on: by now it isn't up, or was started since.
func endedOnce(app manager.App, i manager.Instance) bool {
	if i.Problem == nil || !slices.Contains(appEnds, i.Problem.Rule) {
		return false
	}
	if i.State != manager.InstanceRunning {
		return true
	}

	return slices.ContainsFunc(app.Deployment.Steps, func(s manager.Step) bool {
		return s.Name == manager.StepHealth && !s.EndedAt.IsZero() && i.StartedAt.After(s.EndedAt)
	})
}

// endedHealthy is the end of a deployment whose app didn't stay.
func (d *deployment) endedHealthy(ctx context.Context, app manager.App, i manager.Instance) error {
	p := *i.Problem
	p.Actual = "instance " + i.ID + " was healthy, and then " + wording.Met(p.Rule, p.Actual)
	p.Fix("%s; until you deploy again it is started anew, each time after a longer pause", p.Mend)

	d.explain(ctx, app, &p)
	return codedError{codeAppEnded, &p}
}

// measurementMend says what to do about code that isn't the session's: recorded is the
// runtime that the session was created for, as far as it is known here; asked says that
// the command has --runtime.
func measurementMend(s ident.SessionName, recorded, runs string, asked bool) string {
	if recorded != "" && runs != "" && recorded != runs {
		other := fmt.Sprintf("and --runtime %s asks for another: leave --runtime out", runs)
		if !asked {
			other = fmt.Sprintf("and this was deployed on %s: deploy again, 'cupel deploy %s --runtime %s'", runs, s, recorded)
		}

		return fmt.Sprintf("session %s was created for the runtime %s, %s; or make the session for that one: "+
			"'cupel template --runtime %s …', 'cupel session create … --update', then deploy again", s, recorded, other, runs)
	}

	return "if you didn't expect other code, ask the operator; if they upgraded Cupel or built a runtime anew, vouch for it first: " +
		"'cupel runtime measure' each runtime with their locks, 'cupel template' again, 'cupel session create … --update', then deploy again"
}
