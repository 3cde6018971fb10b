package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/client"
	"cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/appraise"
	"cupel.dev/cupel/internal/trusted/attest"
	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/trusted/release"
	"cupel.dev/cupel/internal/trusted/session"
)

// appCA is the public certificate of the CA that a template's session makes.
const appCA = "app_ca"

type verifyOptions struct {
	app     string
	address string
	name    string
	cas     string
	commit  string
	plain   bool
	session string // that a colleague deployed under another name

	deploying bool // the manager says that a deployment of the app is under way
}

func newVerifyCommand(g *globals) *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify APP",
		Short: "Check that what answers is what you created",
		Long: `Checks, without believing the operator anything: that the CAS keeps your session
and shows a log that continues what you saw; that what answers at the app's
address has a certificate of the session's own CA; that it names an instance
which the CAS attested and which still runs; and the claims of all instances. An
app that answers without TLS ends it with exit code 9 (app_plain), unless --plain
says that it may: then everything but who answers is checked. Each
instance that runs is shown with its grant, the session's version, and the state of
the repository that it has, by the word of the measured puller; those that are behind
the newest are named. It fails where an instance runs under no grant and the session
asks for one, and where an app has two grants with no deployment under way.`,
		Example: `  cupel verify my-app
  cupel verify my-app --address app.example.org:443 --name app.example.org
  cupel verify my-app --commit 5f2c1e0b9a7d4c3e8f6a1b2c3d4e5f60718293a4`,
		Args:              exactArgs("APP"),
		ValidArgsFunction: g.complete(first((&managerAs{g: g, owner: true}).apps())),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.app = args[0]
			return runVerify(cmd.Context(), g, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.address, "address", "", "HOST:PORT of the app (default: as the manager says)")
	f.StringVar(&o.name, "name", "", "name that the app's certificate must have (default: the session's first)")
	f.StringVar(&o.session, "session", "", "the session that has to be judged, where another key deployed the app (default: as the manager says)")
	_ = c.RegisterFlagCompletionFunc("session", g.complete(g.sessions))
	f.StringVar(&o.cas, "cas", "", "address of the CAS (default: where you created the session)")
	f.StringVar(&o.commit, "commit", "", "refuse unless every running instance has this commit ([VOLUME=]HEX, at least 16 digits)")
	f.BoolVar(&o.plain, "plain", false, "accept that the app answers without TLS, or with a certificate of its own: who it is can't be told")
	return c
}

// appReply is the answer of `verify -o json`.
type appReply struct {
	Session   verifyReply    `json:"session"`
	Address   string         `json:"address"`
	Name      string         `json:"name"`    // that the certificate has
	Answers   answerKind     `json:"answers"` // what answers there
	Answering *api.Instance  `json:"answering,omitempty"`
	Simulated bool           `json:"simulated"` // any of the running instances
	Instances []api.Instance `json:"instances"`
	Volumes   []api.Volume   `json:"volumes"`
	Grants    []api.Grant    `json:"grants"` // that have not ended
	Behind    []behind       `json:"behind"` // running instances that don't have the newest
}

func runVerify(ctx context.Context, g *globals, o verifyOptions) error {
	side, err := g.ownerSide(ctx)
	if err != nil {
		return err
	}
	name, err := side.locateApp(ctx, &o)
	if err != nil {
		return err
	}
	verified, err := side.verifySession(ctx, name, o.cas)
	if err != nil {
		return err
	}
	reply := appReply{Session: *verified, Address: o.address, Name: o.name}
	c, _, err := side.casOf(ctx, name, o.cas)
	if err != nil {
		return err
	}
	defer c.Close()
	running, err := side.checkInstances(ctx, c, name)
	if err != nil {
		return err
	}
	if err := reply.take(running, o, g.now()); err != nil {
		return err
	}
	if reply.Name == "" {
		if reply.Name, err = side.appName(name); err != nil {
			return err
		}
	}
	if err := side.answering(ctx, c, name, &reply, running, o); err != nil {
		return err
	}
	if g.json() {
		return g.printJSON(reply)
	}
	return printVerified(g, reply)
}

// take shows what the CAS lists, and judges it.
func (a *appReply) take(r *running, o verifyOptions, now time.Time) (err error) {
	a.Instances, a.Volumes, a.Grants = r.state.Instances, r.state.Volumes, r.grants
	for _, i := range a.Instances {
		a.Simulated = a.Simulated || i.State == api.Running && i.Claims.Simulated
	}
	a.Behind, err = r.judge(a.Session.Hash, o, now)
	return err
}

// answering finds out what answers at the app's address. With --plain it need not
// prove itself, and counts as nobody.
func (o *ownerSide) answering(ctx context.Context, c *client.Client, name ident.SessionName, reply *appReply, r *running, opts verifyOptions) error {
	ca, err := c.Value(ctx, name, appCA)
	if err != nil {
		return err
	}
	probe, err := newAppProbe(reply.Address, reply.Name, name, ca.Value, o.g.now())
	if err != nil {
		return err
	}
	seen := probe.look(ctx)
	reply.Answers = seen.kind
	if seen.problem != nil && opts.plain && seen.kind.unproven() {
		return nil
	}
	if seen.problem != nil {
		return rotatedMeanwhile(ctx, c, name, seen.problem)
	}

	r, err = r.knowing(seen.instance, func() (*running, error) { return o.checkInstances(ctx, c, name) })
	if err != nil {
		return err
	}
	if err := reply.take(r, opts, o.g.now()); err != nil {
		return err
	}
	for _, i := range reply.Instances {
		if i.ID == seen.instance && (r.otherApps(i.Grant, opts.app) || opts.session != "" && r.calledOtherwise(i.Grant, opts.app)) {
			return problem.New(problem.Denied, "app_instance", "instance %s answers at %s, under a grant for another app than %s", i.ID.Short(), reply.Address, opts.app).
				Want("an instance of %s", opts.app).Fix("do not use the app there; see 'cupel session grants %s' for what it is, and 'cupel ps'", name)
		}
		if i.ID == seen.instance && i.State == api.Running {
			reply.Answering = &i
		}
	}
	if reply.Answering == nil {
		return problem.New(problem.Denied, "app_instance", "instance %s answers at %s", seen.instance, reply.Address).
			Want("an instance of %s that the CAS knows to run", name).Fix("do not use the app: what answers has lost, or never had, its rights")
	}
	return nil
}

// locateApp finds session and address of what the user calls an app: from flags
// and the owner's own records, and else from the manager, whose word decides
// nothing but where to look, and for a while whether a deployment is under way. A
// session that --session names is judged, or none.
func (o *ownerSide) locateApp(ctx context.Context, opts *verifyOptions) (ident.SessionName, error) {
	sessions, err := o.dir.Sessions()
	if err != nil {
		return "", err
	}
	name, unnamed := parseSessionArg(orElse(opts.session, opts.app))
	given := opts.session != ""
	if given && unnamed != nil {
		return "", unnamed
	}
	_, known := sessions[name]
	enough := unnamed == nil && (known || given) && opts.address != ""
	if enough { // it may say that a deployment is under way, and holds up nobody
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
	}
	at, err := o.g.manager(ctx)
	if err != nil && opts.address != "" {
		return name, unnamed // if it is unknown here, verifySession says so
	}
	if err != nil && o.g.provider != "" {
		return "", err
	}
	if err != nil {
		return "", problem.New(problem.Invalid, "app_address", "where the app listens is not known: %w", err).
			Fix("give --address HOST:PORT, or --state DIR of this machine's manager, or --provider URL of another's")
	}
	m := at.dial(&o.id.Certificate)
	defer m.Close()
	app, err := m.App(ctx, opts.app)
	if enough && (err != nil || app.Session != name) {
		return name, nil // it may run elsewhere
	}
	if err == nil && given && app.Session != name {
		return "", problem.New(problem.Conflict, "app_session", "app %s runs session %s, by the manager's word", opts.app, app.Session).
			Want("session %s, as --session says", name).
			Fix("give the address of the app that runs that session: --address HOST:PORT; or leave --session out")
	}
	if p := problem.From(err); err != nil && p.Rule == "not_owner" {
		q := *p
		return "", q.Fix("if another key deployed it, of a session of yours: cupel verify %s --session SESSION --address HOST:PORT", opts.app)
	}
	if err != nil {
		return "", err
	}
	opts.deploying = app.Deployment.State == manager.DeploymentRunning
	if opts.address == "" && app.Port == 0 {
		return "", problem.New(problem.Unavailable, "app_unreachable", "app %s never served: it has no port yet", app.Name).
			Fix("see 'cupel ps %s', and deploy it again: %s", app.Name, manager.DeployCommand(app.Session, app.Name))
	}
	if opts.address == "" {
		opts.address = at.appAddress(app.Port)
	}
	return app.Session, nil
}

// appName is the first name that the session's app has in its certificate.
func (o *ownerSide) appName(name ident.SessionName) (string, error) {
	sessions, err := o.dir.Sessions()
	if err != nil {
		return "", err
	}
	if dns := sessions[name].DNS; len(dns) > 0 {
		return dns[0], nil
	}
	return "localhost", nil
}

// checkInstances lists the session's instances and holds the claims of those
// that run against the session's text: the CAS did that before it released
// anything, and here it can be seen to have.
func (o *ownerSide) checkInstances(ctx context.Context, c *client.Client, name ident.SessionName) (*running, error) {
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
	r.grants = slices.DeleteFunc(r.grants, func(g api.Grant) bool { return g.State == api.GrantEnded })

	pin, _ := c.Pin()
	for _, i := range r.state.Instances {
		if i.State != api.Running {
			continue
		}
		if err := checkInstance(r.session, pin.Identity, i); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func checkInstance(s *session.Session, cas ident.KeyHash, i api.Instance) error {
	refuse := func(format string, args ...any) error {
		return problem.New(problem.Denied, "instance_claims", "instance %s of %s: %w", i.ID.Short(), i.Service, fmt.Errorf(format, args...)).
			Fix("do not use the app, and do not trust this CAS: it released to what your session excludes")
	}
	service, ok := s.Service(i.Service)
	if !ok {
		return refuse("the session has no such service")
	}
	if want := release.LaunchBinding(cas, s.Name, i.Service); i.Claims.ConfigID != want {
		return refuse("launched for another CAS, session or service")
	}

	// The very appraisal that the CAS made. Report data can't be judged here: it
	// names a connection that has ended.
	policy := s.Policy(service)
	policy.ReportData, policy.ConfigID = &i.Claims.ReportData, &i.Claims.ConfigID
	decision, err := appraise.Appraise(policy, i.Claims)
	if err == nil {
		err = decision.Err()
	}
	if err != nil && slices.Contains(s.Security.Tolerate, appraise.Simulation) && acceptedUnder(policy, i.Claims) {
		// Nothing but the root is missing, in a session from before it was named.
		return problem.New(problem.Denied, "simulation_unnamed", "instance %s of %s runs on a simulated platform, and the session tolerates simulation without naming its root",
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
func acceptedUnder(policy appraise.Policy, claims attest.Claims) bool {
	policy.Tolerate = append(slices.Clone(policy.Tolerate), appraise.SimulationUnder(claims.Root))
	decision, err := appraise.Appraise(policy, claims)
	return err == nil && decision.Err() == nil
}

// rotatedMeanwhile adds to a refused certificate that the session's CA was rotated
// and that instances have certificates of the one before: that may be all.
func rotatedMeanwhile(ctx context.Context, c *client.Client, name ident.SessionName, err error) error {
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

func printVerified(g *globals, r appReply) error {
	platform := "hardware"
	if r.Simulated {
		platform = "SIMULATED, protects nothing"
	}
	rows := [][]string{
		{"session", fmt.Sprintf("%s, as you created it on %s", r.Session.Session, r.Session.CreatedAt.Format(time.RFC3339))},
		{"session hash", r.Session.Hash.String()},
		{"address", r.Address + ", " + r.certificateCell()},
		{"answering", r.answeringCell()},
		{"platform", platform},
		{"audit log", fmt.Sprintf("followed to entry %d", r.Session.AuditHead)},
	}
	for _, v := range r.Volumes {
		rows = append(rows, []string{"volume " + v.Name, newestCell(v)})
	}
	if err := g.table([]string{"VERIFIED", "FOUND"}, rows); err != nil {
		return err
	}

	g.printf("\n")
	if err := g.printAttested(r); err != nil {
		return err
	}
	for _, b := range r.Behind {
		g.warnf("behind: instance %s of %s: %s", b.Instance.Short(), b.Service, b.Why)
	}
	return nil
}

func (r appReply) certificateCell() string {
	if r.Answering == nil {
		return r.Answers.text()
	}
	return "certificate for " + r.Name + " by the session's own CA"
}

func (r appReply) answeringCell() string {
	if r.Answering == nil {
		return "NOT KNOWN: whoever stands between could answer as well (--plain)"
	}
	return fmt.Sprintf("instance %s, attested %s", r.Answering.ID.Short(), r.Answering.ReleasedAt.UTC().Format(time.RFC3339))
}

func (g *globals) printAttested(r appReply) error {
	var rows [][]string
	for _, i := range r.Instances {
		where := "hardware"
		if i.Claims.Simulated {
			where = "SIMULATED"
		}
		grant := "-"
		if !i.Grant.IsZero() {
			grant = i.Grant.Short()
		}
		rows = append(rows, []string{
			i.ID.Short(), string(i.Service), string(i.State), i.ReleasedAt.UTC().Format(time.RFC3339),
			i.Claims.Measurement.String()[:12], where, i.Claims.TCBStatus, onOff(i.Claims.Debug),
			grant, i.SessionHash.String()[:12], hasCell(i),
		})
	}
	return g.table([]string{
		"INSTANCE", "SERVICE", "STATE", "ATTESTED", "MEASUREMENT", "PLATFORM", "STATUS", "DEBUG",
		"GRANT", "SESSION", "HAS",
	}, rows)
}
