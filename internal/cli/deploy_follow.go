package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
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
	return problem.New(problem.Unavailable, "deploy_timeout", "the deployment of session %s was not seen to begin within %s", d.session, problem.Duration(d.o.timeout)).
		Fix("see with 'cupel ps' whether it runs, and give more time: --timeout 10m")
}

// follow shows the deployment's steps until it ends.
func (d *deployment) follow(ctx context.Context, app manager.App) (manager.App, error) {
	revision := app.Deployment.Revision
	for {
		if app.Deployment.Revision != revision {
			return app, problem.New(problem.Conflict, "deploy_superseded", "another deployment of %s began (revision %d)", app.Name, app.Deployment.Revision).
				Fix("see with 'cupel ps' what runs now, and who else deploys with your key; where it should be this one, run this again")
		}
		d.pulling = app
		d.show.update(app.Deployment, d.g.now())
		switch app.Deployment.State {
		case manager.DeploymentDone:
			return app, nil
		case manager.DeploymentFailed:
			d.explain(ctx, app)
			return app, d.failed(app.Deployment)
		}
		select {
		case <-ctx.Done():
			return app, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		next, err := d.manager.App(ctx, app.ID)
		if err != nil {
			if problem.KindOf(err) == problem.NotFound {
				err = problem.New(problem.Conflict, "app_removed", "%s was removed during its deployment", app.Name)
			}
			if problem.From(err).Rule == manager.RuleAway && d.patient(ctx) {
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
		return problem.New(problem.Unavailable, "deploy_failed", "the manager says that the deployment failed, and not why")
	case how.Problem.Rule == "app_ended" || how.Problem.Rule == "exited":
		return codedError{codeAppEnded, how.Problem}
	case how.Problem.Rule == ruleMeasurement:
		p := *how.Problem
		return p.Fix("%s", measurementMend(d.session, d.recorded, d.asked.Runtime, d.o.runtime != ""))
	}
	return how.Problem
}

// ruleMeasurement is the rule of the CAS by which other code than the session's gets
// nothing.
const ruleMeasurement = "measurement"

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
