package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/template"
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

	by        string // who says which session it is
	deploying bool   // the manager says that a deployment of the app is under way
}

// named reports whether the owner's side knows what the app's grants call it.
func (o *verifyOptions) named() bool { return o.by == byFlag || o.by == byRecord }

func newVerifyCommand(g *globals) *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify APP",
		Short: "Check that what answers is what you created",
		Long: `Checks, without believing the operator anything: that the CAS keeps the session
under which you deployed the app from here (else, yours of its name; --session
demands one) and shows a log that continues what you saw; that what answers at the app's
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
	f.StringVar(&o.session, "session", "", "the session that has to be judged, where another key deployed the app (default: the one that you deployed it under from here, or that is called so)")
	_ = c.RegisterFlagCompletionFunc("session", g.complete(g.sessions))
	f.StringVar(&o.cas, "cas", "", "address of the CAS (default: where you created the session)")
	f.StringVar(&o.commit, "commit", "", "refuse unless every running instance has this commit ([VOLUME=]HEX, at least 16 digits)")
	f.BoolVar(&o.plain, "plain", false, "accept that the app answers without TLS, or with a certificate of its own: who it is can't be told")

	return c
}

// appReply is the answer of `verify -o json`.
type appReply struct {
	SessionBy string            `json:"session_by"` // who says that the app is this session: flag, deployed, name, operator
	Session   verifyReply       `json:"session"`
	Address   string            `json:"address"`
	Name      string            `json:"name"`    // that the certificate has
	Answers   answerKind        `json:"answers"` // what answers there
	Answering *owners.Instance  `json:"answering,omitempty"`
	Simulated bool              `json:"simulated"` // any of the running instances
	Instances []owners.Instance `json:"instances"`
	Volumes   []owners.Volume   `json:"volumes"`
	Grants    []owners.Grant    `json:"grants"` // that have not ended
	Behind    []behind          `json:"behind"` // running instances that don't have the newest
}

func runVerify(ctx context.Context, g *globals, o verifyOptions) error {
	if o.address != "" {
		if err := hostPort("address", o.address); err != nil {
			return err
		}
	}

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
	reply := appReply{SessionBy: o.by, Session: *verified, Address: o.address, Name: o.name}

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
		a.Simulated = a.Simulated || i.State == owners.Running && i.Claims.Simulated
	}

	a.Behind, err = r.judge(a.Session.Hash, o, now)
	return err
}

// answering finds out what answers at the app's address. With --plain it need not
// prove itself, and counts as nobody.
func (o *ownerSide) answering(ctx context.Context, c *client.CAS, name ident.SessionName, reply *appReply, r *running, opts verifyOptions) error {
	ca, err := c.Value(ctx, name, appCA)
	if err != nil {
		return err
	}

	probe, err := newAppProbe(reply.Address, reply.Name, name, ca.Value, o.g.now())
	if err != nil {
		return err
	}

	seen := probe.look(ctx)
	if slices.ContainsFunc(reply.Instances, func(i owners.Instance) bool { return i.State == owners.Running && i.Service != template.PullService }) {
		seen = probe.ofRunning(seen)
	}

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
		if i.ID == seen.instance && (r.otherApps(i.Grant, opts.app) || opts.named() && r.calledOtherwise(i.Grant, opts.app)) {
			return problem.New(problem.Denied, ruleAppInstance, "instance %s answers at %s, under a grant for another app than %s", i.ID.Short(), reply.Address, opts.app).
				Want("an instance of %s", opts.app).Fix("do not use the app there; see 'cupel session grants %s' for what it is, and 'cupel ps'", name)
		}

		if i.ID == seen.instance && i.State == owners.Running {
			reply.Answering = &i
		}
	}

	if reply.Answering == nil {
		return problem.New(problem.Denied, ruleAppInstance, "instance %s answers at %s", seen.instance, reply.Address).
			Want("an instance of %s that the CAS knows to run", name).Fix("do not use the app: what answers has lost, or never had, its rights")
	}
	return nil
}
