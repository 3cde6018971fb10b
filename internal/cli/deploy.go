package cli

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/client"
	"cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/owner"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/trusted/release"
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
		Short: "Run an app as attested instances behind one port, or update it",
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
			o.memoryGiven, o.instancesGiven = c.Flags().Changed("memory"), c.Flags().Changed("instances")
			return runDeploy(c.Context(), g, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.name, "name", "", "the app's name (default: made from the session's)")
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
	manager *manager.Client
	cas     *client.Client
	session ident.SessionName
	show    progress
	// before is what the CAS listed when the deployment began: a pull among it
	// brought an older state of the repository.
	before map[ident.InstanceID]bool

	// blind says that the owner may grant, and not read: what the CAS says of
	// instances stays unseen.
	blind bool

	code    *release.GrantCode // that was given; nil: none
	app     *manager.App       // as it was before; nil: it is new
	pulling manager.App        // as it was seen last
	away    bool               // that the manager doesn't answer was said
	grantID release.GrantID    // that the deployment runs under; zero: none is asked for
	made    *api.Grant         // that grant, if this command made it
	granted string             // what the grant calls the app

	operator ident.KeyHash // by which the operator claims grants
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
	d := &deployment{g: g, o: o, side: side, session: req.Session, show: g.progress()}
	d.show.hint = func() string { return d.pullerSays(ctx) }
	if o.code != "" {
		code, err := g.readCode(o.code)
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
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, errDeployTimeout)
	defer cancel()
	if err := d.right(ctx, &req); err != nil {
		return err
	}
	app, err := d.handIn(ctx, req)
	if err != nil {
		return err
	}
	mine, err := d.mine(ctx)
	if err != nil {
		return err
	}
	if !mine {
		return d.handedIn(app)
	}

	revision := app.Deployment.Revision
	app, err = d.follow(ctx, app)
	goesOnAlone := ctx.Err() != nil // who stopped waiting decides nothing
	won := err == nil
	var instances []manager.Instance
	if err == nil && !d.blind {
		instances, err = d.attested(ctx, app)
	}
	if !goesOnAlone {
		if left := d.leaveOne(ctx, won); err == nil {
			err = left
		}
	}
	var seen found
	if err == nil && !d.blind {
		instances, seen, err = d.look(ctx, app, instances)
	}
	d.show.end(err)
	if w := app.Deployment.Warning; w != nil && err != nil {
		g.warnf("warning: %s: %s", w.Rule, w.Actual) // what was lost on the way, whatever else failed
	}
	switch {
	case err == nil && d.blind:
		return d.unchecked(app)
	case err == nil:
		return d.report(app, instances, seen)
	case errors.Is(context.Cause(ctx), errDeployTimeout):
		return problem.New(problem.Unavailable, "deploy_timeout", "%s is not done after %s; the deployment goes on", app.Name, o.timeout).
			Fix("%s", goesOn(app))
	case ctx.Err() != nil:
		g.warnf("The deployment of %s (revision %d) goes on without you.", app.Name, revision)
		g.warnf("  %s", goesOn(app))
	}
	return err
}

// goesOn says what to do about a deployment that nobody waits for any more.
func goesOn(app manager.App) string {
	watch := "watch it with 'cupel events " + app.Name + " -f'; "
	if app.Revision > 0 && app.Revision != app.Deployment.Revision {
		if app.Healthy == 0 {
			return watch + "nothing serves meanwhile: the revision before was stopped for it, and comes back if it fails; another 'cupel deploy' replaces it"
		}
		return watch + "until it is done the revision before serves; another 'cupel deploy' replaces it"
	}
	return watch + "end it with 'cupel rm --app " + app.Name + "'"
}

var errDeployTimeout = errors.New("timeout of the deployment")

// request turns the flags into what the manager is asked for.
func (o *deployOptions) request() (manager.DeployRequest, error) {
	var req manager.DeployRequest
	session, err := parseSessionArg(o.session)
	if err != nil {
		return req, err
	}
	var memory uint64
	if o.memory != "" || o.memoryGiven {
		if memory, err = manager.ParseMemory(o.memory); err != nil {
			return req, err
		}
	}
	public, container, err := parsePorts(o.port)
	if err != nil {
		return req, err
	}
	if o.instances < 1 && o.instancesGiven {
		return req, problem.New(problem.Invalid, "instances", "--instances %d", o.instances).Want("1 or more").
			Fix("to remove an app: cupel rm --app APP")
	}
	service := ident.ServiceName(o.service)
	if o.service != "" {
		if service, err = ident.ParseServiceName(o.service); err != nil {
			return req, problem.New(problem.Invalid, "service", "--service: %w", err)
		}
	}
	return manager.DeployRequest{
		Session: session, Name: o.name, Service: service, Runtime: o.runtime, Instances: o.instances, Memory: memory, Port: public, ContainerPort: container,
	}, nil
}

// parsePorts reads PUBLIC[:CONTAINER]; 0 stands for what is left out.
func parsePorts(s string) (public, container uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	first, second, both := strings.Cut(s, ":")
	number := func(s string) uint16 {
		n, perr := strconv.ParseUint(s, 10, 16)
		if perr != nil || n == 0 {
			err = problem.New(problem.Invalid, "port", "--port %.40q", s).Want("PUBLIC or PUBLIC:CONTAINER, each from 1 to 65535").
				Fix("for instance --port 8080, or --port 443:8443")
		}
		return uint16(n)
	}
	public = number(first)
	if both && err == nil {
		container = number(second)
	}
	return public, container, err
}

// connect finds CAS and manager, and refuses what can't work before anything
// is started.
func (d *deployment) connect(ctx context.Context, req *manager.DeployRequest) error {
	records, err := d.side.dir.Sessions()
	if err != nil {
		return err
	}
	record, mine := records[d.session]
	if req.Runtime == "" {
		req.Runtime = record.Runtime
	}
	if d.o.ref != "" && !mine {
		return problem.New(problem.Conflict, "ref", "session %s was not created from here: what it pins is not known", d.session).
			Fix("leave --ref out; who created the session checks it")
	}
	if d.o.ref != "" && record.Ref != d.o.ref {
		return problem.New(problem.Conflict, "ref", "session %s pins %s", d.session, orElse(record.Ref, "no ref")).Want("%s", d.o.ref).
			Fix("what is pulled is the owner's word, in the session: update it with 'cupel session create … --ref %s --update', then deploy again", d.o.ref)
	}
	identity, err := d.findCAS(ctx)
	if err != nil {
		return err
	}
	if d.at, err = d.g.manager(ctx); err != nil {
		return err
	}
	if d.at.CAS.Identity != identity {
		if d.o.casInstances == "" {
			return problem.New(problem.Conflict, "cas_other", "session %s is at another CAS than this manager's own", d.session).
				Want("identity %s", d.at.CAS.Identity).Fix("say where instances reach it with --cas-instances HOST:PORT")
		}
		req.CAS = &manager.CASRef{Instances: d.o.casInstances, Identity: identity}
	}
	d.manager = d.at.dial(&d.side.id.Certificate)
	return d.knowRuntime(ctx, req)
}

// knowRuntime finds out which runtime is meant where neither the command nor the
// owner's records say it: the one that the app has.
func (d *deployment) knowRuntime(ctx context.Context, req *manager.DeployRequest) error {
	if req.Runtime != "" {
		return nil
	}
	apps, err := d.manager.Apps(ctx)
	if err != nil {
		return err
	}
	for _, a := range apps {
		if a.Owner == d.side.id.KeyHash && a.Session == d.session && (req.Name == "" || req.Name == a.Name) {
			req.Runtime = a.Runtime
		}
	}
	if req.Runtime == "" {
		return problem.New(problem.Invalid, "runtime", "session %s was not created from here, and no app of yours runs it: its runtime is not known", d.session).
			Fix("give --runtime; if the session was removed, remove its apps: cupel rm --app APP")
	}
	return nil
}

// findCAS connects to the session's CAS and notes what it lists before the
// deployment begins. Who hands in somebody else's code need not know that CAS, nor
// may see the session: then there is none to ask, and the code says whose it is.
func (d *deployment) findCAS(ctx context.Context) (ident.KeyHash, error) {
	cas, pin, err := d.side.casOf(ctx, d.session, d.o.cas)
	if err == nil {
		d.cas = cas
		err = d.lookBefore(ctx)
	}
	if err != nil && d.code == nil && problem.From(err).Rule == "access_policy" {
		d.blind, err = true, nil
	}
	if err == nil {
		return pin.Identity, nil
	}

	refused := []problem.Kind{problem.Denied, problem.NotFound, problem.Unauthenticated}
	if d.code == nil || !slices.Contains(refused, problem.KindOf(err)) {
		return ident.KeyHash{}, err
	}
	if d.cas != nil {
		d.cas.Close()
		d.cas = nil
	}
	return d.code.CAS, nil
}

func (d *deployment) lookBefore(ctx context.Context) error {
	known, err := d.cas.Instances(ctx, d.session)
	if err != nil {
		return err
	}
	d.before = map[ident.InstanceID]bool{}
	for _, k := range known {
		d.before[k.ID] = true
	}
	return nil
}

// follow shows the deployment's steps until it ends.
func (d *deployment) follow(ctx context.Context, app manager.App) (manager.App, error) {
	revision := app.Deployment.Revision
	for {
		if app.Deployment.Revision != revision {
			return app, problem.New(problem.Conflict, "deploy_superseded", "another deployment of %s began (revision %d)", app.Name, app.Deployment.Revision)
		}
		d.pulling = app
		d.show.update(app.Deployment, d.g.now())
		switch app.Deployment.State {
		case manager.DeploymentDone:
			return app, nil
		case manager.DeploymentFailed:
			d.explain(ctx, app)
			return app, failed(app.Deployment)
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
			if problem.From(err).Rule == "manager" && d.patient(ctx) {
				continue // it restarts: the deployment goes on with it
			}
			return app, err
		}
		app = next
	}
}

// failed is the end of a deployment that the manager calls failed. An app that ended has
// an exit code of its own.
func failed(d manager.Deployment) error {
	switch {
	case d.Problem == nil:
		return problem.New(problem.Unavailable, "deploy_failed", "the manager says that the deployment failed, and not why")
	case d.Problem.Rule == "app_ended" || d.Problem.Rule == "exited":
		return codedError{codeAppEnded, d.Problem}
	}
	return d.Problem
}

// attested compares the manager's instances with what the CAS, asked with the
// owner's key, says: each of them attested for this service, running, and no
// two the same. They may disagree for a while (--wait), as an instance may have
// been restarted in between.
func (d *deployment) attested(ctx context.Context, app manager.App) ([]manager.Instance, error) {
	d.show.begin("verify", d.g.now())
	deadline := time.Now().Add(d.g.wait)
	for {
		instances, err := d.compare(ctx, app)
		if err == nil {
			d.show.finish("verify", d.g.now())
			return instances, nil
		}
		if problem.From(err).Rule == "manager" && d.patient(ctx) {
			deadline = time.Now().Add(d.g.wait) // it restarts, and has to look around first
			continue
		}
		if !slices.Contains(mayChange, problem.From(err).Rule) || time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// mayChange are the rules of attested that a moment later may be met.
var mayChange = []string{"instance_not_attested", "pull_not_attested"}

func (d *deployment) compare(ctx context.Context, app manager.App) ([]manager.Instance, error) {
	list, err := d.manager.Instances(ctx, app.ID)
	if err != nil {
		return nil, err
	}
	known, err := d.cas.Instances(ctx, d.session)
	if err != nil {
		return nil, err
	}
	pulled, err := d.pulled(known)
	if err != nil {
		return nil, err
	}
	running := map[ident.InstanceID]bool{}
	for _, k := range known {
		if k.State == api.Running && k.Service == app.Service && k.Grant == d.grantID && startedFrom(k, pulled) {
			running[k.ID] = true
		}
	}
	var out []manager.Instance
	for _, i := range list {
		if i.Role != "app" || i.Revision != app.Revision || i.State != "running" || i.Health != "healthy" {
			continue
		}
		if !running[i.InstanceID] {
			return nil, problem.New(problem.Denied, "instance_not_attested", "the CAS does not list instance %s (%s) as attested and running", i.ID, i.InstanceID.Short()).
				Want("every instance of %s", app.Name).Fix("the manager says so and the CAS does not: don't use the app; ask the operator, and see 'cupel verify %s'", app.Name)
		}
		delete(running, i.InstanceID) // each counts once
		out = append(out, i)
	}
	// Who asked for a number doesn't believe the manager that the app has fewer.
	if want := max(app.Instances, d.o.instances); len(out) < want {
		have := problem.Count(len(out), "instance") + " are"
		if len(out) == 1 {
			have = "1 instance is"
		}
		return nil, problem.New(problem.Denied, "instance_not_attested", "%s healthy and attested", have).
			Want("%d", want).Fix("see 'cupel ps %s' and 'cupel events %s'", app.Name, app.Name)
	}
	return out, nil
}

// pulled returns the attested pull of this deployment. Without one, a manager
// could leave what an earlier deployment pulled and say that it is the newest.
func (d *deployment) pulled(known []api.Instance) (api.Instance, error) {
	for _, k := range slices.Backward(known) {
		if k.Service == owner.PullService && !d.before[k.ID] && k.Grant == d.grantID && k.State == api.Exited && k.ExitCode != nil && *k.ExitCode == 0 {
			return k, nil
		}
	}
	return api.Instance{}, problem.New(problem.Denied, "pull_not_attested", "the CAS saw no pull of session %s end well since this deployment began", d.session).
		Want("an attested instance of %s that ended with 0", owner.PullService).
		Fix("the manager says so and the CAS does not: what runs may be older code; deploy again, and ask the operator")
}

// startedFrom reports whether an instance's volumes have what a pull stored.
func startedFrom(k, pulled api.Instance) bool {
	return !slices.ContainsFunc(pulled.Volumes, func(p api.InstanceVolume) bool {
		return slices.ContainsFunc(k.Volumes, func(v api.InstanceVolume) bool { return v.Name == p.Name && v.Generation < p.Generation })
	})
}
