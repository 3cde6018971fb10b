package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/home"
	"cupel.dev/cupel/internal/wording"
)

type deployOptions struct {
	session   string
	name      string
	service   string
	runtime   string
	ref       string
	instances int
	memory    string

	memoryGiven, instancesGiven bool

	port         string
	cas          string
	casInstances string
	code         string
	timeout      time.Duration
	plain        bool
}

func newDeployCommand(g *globals) *cobra.Command {
	var o deployOptions
	c := &cobra.Command{
		Use:   "deploy SESSION",
		Short: "Run an app as attested instances, or update it",
		Long: `Lets the manager pull the session's repository, inside of an attested
instance, and run the app as attested instances behind one public port. A second
deploy of the same session updates the app: it pulls again, starts new instances,
leads the port to them when they are healthy, and stops the old ones. If that
fails, the old ones go on. An app that writes a volume has one instance: its update
stops the old one first, and says for how long nothing served.

The right to run so many instances is a grant, which this command makes at your CAS
with your key and whose code it hands to the manager. In the end exactly one grant of
the app is left: the new one after a success, else the one before. With --code it
hands in a code that somebody made with 'cupel session submit'.

It ends well only when your CAS, asked with your key, saw this deployment's pull
end well and lists every instance as attested, running and started from it, and
the manager says that they are healthy. In the end it connects to the app: one that
answers without TLS works, but its users can't tell it from an impostor. Then the
exit code is 9 (app_plain), unless --plain says that it is meant so.`,
		Example: `  cupel deploy my-session --instances 3 --memory 256M --port 8080
  cupel deploy my-session --port 443:8443
  cupel deploy my-session --code @code.txt`,
		Args:              exactArgs("SESSION"),
		ValidArgsFunction: g.completeSessions,
		RunE: func(c *cobra.Command, args []string) error {
			o.session = args[0]
			o.memoryGiven = c.Flags().Changed("memory")
			o.instancesGiven = c.Flags().Changed("instances")
			return runDeploy(c.Context(), g, o)
		},
	}

	f := c.Flags()
	f.StringVar(&o.name, "name", "", "the app's name (default: the session's last 40 characters in small letters, others than a-z and 0-9 as -)")
	f.StringVar(&o.service, "service", "", "the session's service that serves (default: as the app has it, else client-app)")
	f.StringVar(&o.runtime, "runtime", "", "the runtime to run on (default: the one that you created the session for)")
	_ = c.RegisterFlagCompletionFunc("runtime", g.completeRuntimes)
	f.StringVar(&o.ref, "ref", "", "check that the session pins this branch, tag or commit")
	f.IntVar(&o.instances, "instances", 0, "how many instances (default: as the app has it, else 1)")
	f.StringVar(&o.memory, "memory", "", "memory limit of each instance, such as 256M or 1Gi (default: as the app has it, else 256M)")
	f.StringVar(&o.port, "port", "", "PUBLIC[:CONTAINER] port (default: as the app has it, else the next free one from 8082, and 8080 inside)")
	f.StringVar(&o.cas, "cas", "", "address of the CAS (default: where you created the session)")
	f.StringVar(&o.casInstances, "cas-instances", "", "where instances reach that CAS, if it isn't this manager's own")
	f.StringVar(&o.code, "code", "", "hand in the code in this file (@FILE) or on standard input (-) instead of making a grant")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long to wait")
	f.BoolVar(&o.plain, "plain", false, "the app answers without TLS, or with a certificate of its own, and is meant to")

	return c
}

// deployment is one run of the command.
type deployment struct {
	g       *globals
	o       deployOptions
	side    *ownerSide
	at      managerAt
	manager *client.Manager
	cas     *client.CAS
	casAt   string // where that is
	session ident.SessionName
	show    progress
	// before is what the CAS listed when the deployment began: a pull among it
	// brought an older state of the repository.
	before map[ident.InstanceID]bool

	// blind says that the owner may grant, and not read: what the CAS says of
	// instances stays unseen.
	blind bool

	code    *owners.GrantCode // that was given; nil: none
	app     *manager.App      // as it was before; nil: it is new
	pulling manager.App       // as it was seen last
	away    bool              // that the manager doesn't answer was said
	grantID owners.GrantID    // that the deployment runs under; zero: none is asked for
	made    *owners.Grant     // that grant, if this command made it
	// withdrawn says that nobody had claimed it in the end, and nobody can any more.
	withdrawn bool
	granted   string // what the grant calls the app

	asked manager.DeployRequest // what the manager was asked for

	operator ident.KeyHash // by which the operator claims grants
	recorded string        // the runtime that the session was created for; empty: it is not known here
}

func runDeploy(ctx context.Context, g *globals, o deployOptions) error {
	req, err := o.request()
	if err != nil {
		return err
	}

	side, err := g.ownerSide(ctx)
	if err != nil {
		return err
	}

	d := &deployment{
		g:       g,
		o:       o,
		side:    side,
		session: req.Session,
		show:    g.progress(),
	}
	d.show.hint = func() string { return d.pullerSays(ctx) }

	if o.code != "" {
		code, err := g.readCode(ctx, o.code)
		if err != nil {
			return err
		}
		d.code = &code
	}

	if err := d.connect(ctx, &req); err != nil {
		return err
	}
	defer d.manager.Close()
	if d.cas != nil {
		defer d.cas.Close()
	}

	return d.run(ctx, req)
}

// run has the manager carry the request out, and sees it to its end.
func (d *deployment) run(ctx context.Context, req manager.DeployRequest) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.o.timeout, errDeployTimeout)
	defer cancel()

	if err := d.obtainRight(ctx, &req); err != nil {
		return d.outOfTime(ctx, err)
	}

	d.asked = req
	app, err := d.handIn(ctx, req)
	if err != nil {
		return d.outOfTime(ctx, err)
	}

	// By the code of somebody else the app is theirs, and they alone may look at it.
	mine, err := d.ours(ctx)
	if err != nil {
		return d.outOfTime(ctx, err)
	}
	if !mine {
		return d.handedIn(app)
	}

	d.remember(ctx, app)

	// From here on the manager works, and this command checks what comes of it.
	revision := app.Deployment.Revision
	app, instances, seen, err := d.seeThrough(ctx, app)
	d.show.end(err)

	if w := app.Deployment.Warning; w != nil && err != nil {
		d.g.warnf("warning: %s", wording.Reason(w)) // what was lost on the way, whatever else failed
	}

	switch {
	case err == nil && d.blind:
		return d.unchecked(app)
	case err == nil:
		d.settled(ctx, app)
		return d.report(app, instances, seen)
	case errors.Is(context.Cause(ctx), errDeployTimeout) && d.withdrawn:
		return problem.New(problem.Unavailable, ruleDeployTimeout, "the manager had not claimed the grant for %s after %s; the deployment has lost its right, and comes to nothing", app.Name, problem.Duration(d.o.timeout)).
			Fix("see with 'cupel ps' what runs now, and deploy again, with more time: --timeout 10m; if it stays so, ask the operator")
	case errors.Is(context.Cause(ctx), errDeployTimeout):
		return problem.New(problem.Unavailable, ruleDeployTimeout, "%s is not done after %s; the deployment goes on", app.Name, problem.Duration(d.o.timeout)).
			Fix("%s", goesOn(app))
	case ctx.Err() != nil && !d.withdrawn:
		d.g.warnf("The deployment of %s (revision %d) goes on without you.", app.Name, revision)
		d.g.warnf("  %s", d.g.inState(goesOn(app)))
	}
	return err
}

// remember keeps under which session the app was deployed, and by which grant: from now on
// no manager's word is needed for that.
func (d *deployment) remember(ctx context.Context, app manager.App) {
	place := d.g.place()
	over, err := d.overtaken(ctx, place, app)
	if err == nil {
		err = d.g.updateDeployed(context.WithoutCancel(ctx), d.side.dir, func(all home.Deployed) error {
			for name, session := range over {
				if _, still, _ := all.At(place, name); still.Session == session {
					all.Forget(place, name)
				}
			}

			noted := home.DeployedApp{Session: d.session, At: d.g.now().UTC(), CAS: d.casAt}
			if _, before, known := all.At(place, ident.AppRef(app.ID)); known && before.Session == d.session {
				noted.Grants = before.Grants
			}

			if !d.grantID.IsZero() {
				noted.Grants = append(noted.Grants, d.grantID)
			}

			names := home.Names{
				Granted: ident.AppRef(d.granted),
				Called:  ident.AppRef(app.Name),
				ID:      ident.AppRef(app.ID),
				Chosen:  d.o.name != "",
			}
			if !all.Note(place, names, noted) {
				_, other, _ := all.At(place, ident.AppRef(app.Name))
				return fmt.Errorf("here it is the app of session %s; if that one is gone: %s", other.Session, d.g.inState("cupel deploy "+string(d.session)+" --name "+app.Name))
			}
			return nil
		})
	}

	if err != nil {
		d.g.warnf("It is not remembered here that %s runs session %s: %v", app.Name, d.session, err)
	}
}

// overtaken are the names of the app under which another session's is remembered, with that
// session, where it was removed otherwise than from here: its CAS says that its grants have
// ended.
func (d *deployment) overtaken(ctx context.Context, place home.Place, app manager.App) (map[ident.AppRef]ident.SessionName, error) {
	names := map[ident.AppRef]ident.SessionName{}
	all, err := d.g.deployed(d.side.dir)

	for _, name := range []ident.AppRef{ident.AppRef(d.granted), ident.AppRef(app.Name)} {
		_, other, known := all.At(place, name)
		if known && other.Session != d.session && d.side.over(ctx, other) {
			names[name] = other.Session
		}
	}

	return names, err
}

// settled remembers that this deployment's grant is the only one that the app has left.
func (d *deployment) settled(ctx context.Context, app manager.App) {
	place := d.g.place()
	all, err := d.g.deployed(d.side.dir)
	if _, noted, _ := all.At(place, ident.AppRef(app.ID)); err == nil && len(noted.Grants) > 1 {
		err = d.g.updateDeployed(context.WithoutCancel(ctx), d.side.dir, func(all home.Deployed) error {
			all.Settle(place, ident.AppRef(app.ID), d.grantID)
			return nil
		})
	}

	if err != nil {
		d.g.warnf("It is not remembered here that %s has no other grants: %v", app.Name, err)
	}
}

// seeThrough waits for the deployment's end, has the CAS confirm it, leaves one grant and
// looks at what answers.
func (d *deployment) seeThrough(ctx context.Context, app manager.App) (manager.App, []manager.Instance, found, error) {
	app, err := d.follow(ctx, app)
	end := ending{done: err == nil}

	var instances []manager.Instance
	if err == nil && !d.blind {
		instances, err = d.attested(ctx, app)
	}
	end.confirmed = err == nil
	goesOnAlone := err != nil && ctx.Err() != nil // who stopped waiting decides nothing

	if left := d.settleGrants(ctx, end, goesOnAlone); err == nil {
		err = left
	}

	var seen found
	if err == nil && !d.blind {
		instances, seen, err = d.look(ctx, app, instances)
	}
	return app, instances, seen, err
}
