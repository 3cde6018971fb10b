package cli

import (
	"context"
	"slices"

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

	c, _, err := side.casOf(ctx, name, o.cas)
	if err != nil {
		return err
	}
	defer c.Close()

	v := &verification{
		side:    side,
		cas:     c,
		session: name,
		opts:    o,
		reply: appReply{
			SessionBy: o.by,
			Session:   *verified,
			Address:   o.address,
			Name:      o.name,
		},
	}
	if err := v.run(ctx); err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(v.reply)
	}
	return printVerified(g, v.reply)
}

// verification is one run of the command, whose session and address are known.
type verification struct {
	side    *ownerSide
	cas     *client.CAS
	session ident.SessionName
	opts    verifyOptions
	reply   appReply
}

// run judges what the CAS lists, and then what answers.
func (v *verification) run(ctx context.Context) error {
	listed, err := v.side.checkInstances(ctx, v.cas, v.session)
	if err != nil {
		return err
	}
	if err := v.take(listed); err != nil {
		return err
	}

	if v.reply.Name == "" {
		if v.reply.Name, err = v.side.appName(v.session); err != nil {
			return err
		}
	}
	return v.answering(ctx, listed)
}

// take shows what the CAS lists, and judges it.
func (v *verification) take(listed *running) (err error) {
	v.reply.Instances = listed.state.Instances
	v.reply.Volumes = listed.state.Volumes
	v.reply.Grants = listed.grants

	for _, i := range v.reply.Instances {
		v.reply.Simulated = v.reply.Simulated || i.State == owners.Running && i.Claims.Simulated
	}

	v.reply.Behind, err = listed.judge(v.reply.Session.Hash, v.opts, v.side.g.now())
	return err
}

// answering finds out what answers at the app's address. With --plain it need not
// prove itself, and counts as nobody.
func (v *verification) answering(ctx context.Context, listed *running) error {
	ca, err := v.cas.Value(ctx, v.session, appCA)
	if err != nil {
		return err
	}
	probe, err := newAppProbe(v.reply.Address, v.reply.Name, v.session, ca.Value, v.side.g.now())
	if err != nil {
		return err
	}

	seen := probe.look(ctx)
	if slices.ContainsFunc(v.reply.Instances, func(i owners.Instance) bool { return i.State == owners.Running && i.Service != template.PullService }) {
		seen = probe.ofRunning(seen)
	}
	v.reply.Answers = seen.kind

	if seen.problem != nil && v.opts.plain && seen.kind.unproven() {
		return nil
	}
	if seen.problem != nil {
		return rotatedMeanwhile(ctx, v.cas, v.session, seen.problem)
	}

	listed, err = listed.knowing(seen.instance, func() (*running, error) { return v.side.checkInstances(ctx, v.cas, v.session) })
	if err != nil {
		return err
	}
	if err := v.take(listed); err != nil {
		return err
	}
	return v.answeredBy(seen.instance, listed)
}

// answeredBy refuses an instance that answers and doesn't run, or under the grant of
// another app than the one that is verified.
func (v *verification) answeredBy(id ident.InstanceID, listed *running) error {
	app := v.opts.app
	for _, i := range v.reply.Instances {
		if i.ID != id {
			continue
		}

		if listed.otherApps(i.Grant, app) || v.opts.named() && listed.calledOtherwise(i.Grant, app) {
			return problem.New(problem.Denied, ruleAppInstance, "instance %s answers at %s, under a grant for another app than %s", i.ID.Short(), v.reply.Address, app).
				Want("an instance of %s", app).Fix("do not use the app there; see 'cupel session grants %s' for what it is, and 'cupel ps'", v.session)
		}
		if i.State == owners.Running {
			v.reply.Answering = &i
		}
	}

	if v.reply.Answering == nil {
		return problem.New(problem.Denied, ruleAppInstance, "instance %s answers at %s", id, v.reply.Address).
			Want("an instance of %s that the CAS knows to run", v.session).Fix("do not use the app: what answers has lost, or never had, its rights")
	}
	return nil
}
