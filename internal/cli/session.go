package cli

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/owner/home"
	"cupel.dev/cupel/internal/trusted/owner/reference"
	"cupel.dev/cupel/internal/trusted/owner/template"
	"cupel.dev/cupel/internal/trusted/session"
)

func newSessionCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "session",
		Short: "Write down which measured code may have which secrets",
		Long: `A session is your text: which measured code may have which secrets. The CAS keeps
it, attests every instance by it, and gives out its secrets to nobody else.`,
		Example: "  cupel session create client-session.yml --name my-app\n  cupel session verify my-app",
	}
	c.AddCommand(newSessionCreateCommand(g), newSessionCheckCommand(g), newSessionReadCommand(g), newSessionVerifyCommand(g), newSessionValuesCommand(g),
		newSessionRefusalsCommand(g), newSessionRotateCommand(g), newSessionRmCommand(g),
		newSessionSubmitCommand(g), newSessionGrantsCommand(g))
	return c
}

// sessionOptions are shared by check and create.
type sessionOptions struct {
	file   string
	inputs inputFlags
	values valueFlags
	accept []string
	name   string
	update bool
	drop   bool // nothing of the launcher before is kept
}

func (o *sessionOptions) add(c *cobra.Command) {
	o.inputs.add(c)
	c.Flags().StringSliceVar(&o.accept, "accept-measurement", nil, "accept this measurement without having rebuilt it: HEX or SERVICE=HEX; repeatable")
}

func newSessionCheckCommand(g *globals) *cobra.Command {
	var o sessionOptions
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Compare a session template with your own inputs",
		Long: `Makes the template again from your inputs and names every difference in FILE,
and every measurement in it that you can't vouch for. Sends nothing.`,
		Example: `  cupel session check client-session.yml --runtime python --command "python3 /home/client-app/repo/client-app.py"`,
		Args:    exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			return runSessionCheck(cmd.Context(), g, o)
		},
	}

	o.add(c)
	_ = c.RegisterFlagCompletionFunc("runtime", g.completeRuntimes)
	return c
}

type checkReply struct {
	Differences  []template.Difference                   `json:"differences"`
	Measurements map[ident.ServiceName]ident.Measurement `json:"measurements"`
}

func runSessionCheck(ctx context.Context, g *globals, o sessionOptions) error {
	side, err := g.ownerSide(ctx)
	if err != nil {
		return err
	}

	_, reviewed, err := side.review(ctx, &o)
	if err != nil {
		return err
	}

	if g.json() {
		if err := g.printJSON(checkReply{append([]template.Difference{}, reviewed.Differences...), reviewed.Measurements}); err != nil {
			return err
		}
	}

	if err := template.Refuse(reviewed.Differences); err != nil {
		return err
	}

	if !g.json() {
		g.printf("%s is the template that your inputs make, and you vouch for its measurements.\n", o.file)
		return side.printMeasurements(reviewed.Measurements)
	}
	return nil
}

// review reads FILE and judges it by the owner's inputs, which it asks for where
// no flag gives them.
func (o *ownerSide) review(ctx context.Context, opts *sessionOptions) (template.Inputs, *template.Reviewed, error) {
	text, err := readSmall(ctx, opts.file, session.MaxSize)
	if err != nil {
		p := *problem.From(err)
		return template.Inputs{}, nil, p.Want("a file with a session template").Fix("name the one that 'cupel template' wrote: cupel template … > FILE")
	}

	if err := o.g.askInputs(ctx, &opts.inputs); err != nil {
		return template.Inputs{}, nil, err
	}

	in, err := o.inputs(&opts.inputs)
	if err != nil {
		return in, nil, err
	}

	values, err := o.dir.Values()
	if err != nil {
		return in, nil, err
	}
	accepts, err := template.AcceptValues(values, opts.accept)
	if err != nil {
		return in, nil, err
	}

	reviewed, err := template.Review(text, in, accepts)
	return in, reviewed, err
}

// readSmall reads a file that a flag or an argument names; it may be a pipe, which is
// waited for until an interrupt.
func readSmall(ctx context.Context, name string, most int) ([]byte, error) {
	b, err := atomicfile.ReadNamed(ctx, name, int64(most))
	if at, ok := errors.AsType[*fs.PathError](err); ok && at.Op == "open" {
		return nil, problem.New(problem.NotFound, ruleFile, "%w", err)
	}
	if _, large := errors.AsType[*atomicfile.TooLargeError](err); large {
		return nil, problem.New(problem.Invalid, ruleFile, "%w", err).Want("at most %d bytes", most)
	}
	if err != nil {
		return nil, problem.New(problem.Invalid, ruleFile, "%w", err)
	}

	return b, nil
}

func (o *ownerSide) printMeasurements(ms map[ident.ServiceName]ident.Measurement) error {
	values, err := o.dir.Values()
	if err != nil {
		return err
	}

	var rows [][]string
	for _, service := range []ident.ServiceName{template.PullService, template.AppService} {
		how := "accepted on the command line"
		if i := slices.IndexFunc(values, func(v reference.Value) bool { return v.Measurement == ms[service] }); i >= 0 {
			how = values[i].How + ", packages as of " + values[i].IndexDate.UTC().Format(time.DateOnly)
		}

		rows = append(rows, []string{string(service), ms[service].String(), how})
	}

	return o.g.table([]string{"SERVICE", "MEASUREMENT", "VOUCHED FOR"}, rows)
}

func newSessionCreateCommand(g *globals) *cobra.Command {
	var o sessionOptions
	c := &cobra.Command{
		Use:   "create FILE",
		Short: "Check a session template, fill it in and give it to your CAS",
		Long: `Makes the template again from your inputs and refuses every difference in FILE.
Only the template made here is filled in and uploaded, to the attested CAS and
nobody else; the hash that it answers is compared with the one computed here. The
session belongs to the key in your owner's folder, made on first use.

Values are given by --git-user, --proxy, --env and --secret, by -e NAME=VALUE, by
-e NAME=@FILE, or with --use-env taken from the environment; what is still missing is
asked for, secrets without an echo.

After an upgrade of the launcher, --update keeps the measurement of the same
packages under the one before beside the new one, so that what runs on it can go
on and be started again. When nothing does any more, drop it with --drop-old.`,
		Example: `  cupel session create client-session.yml --name my-app --runtime python \
    --command "python3 /home/client-app/repo/client-app.py" \
    -e GIT_REPO=https://git.example.org/me/app.git -e ACCESS_TOKEN=@token`,
		Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			return runSessionCreate(cmd.Context(), g, o)
		},
	}

	o.add(c)
	_ = c.RegisterFlagCompletionFunc("runtime", g.completeRuntimes)
	o.values.add(c)
	f := c.Flags()
	f.StringVar(&o.name, "name", "", "the session's name (or -e SESSION=NAME)")
	f.BoolVar(&o.update, "update", false, "replace the current version of a session that exists")
	f.BoolVar(&o.drop, "drop-old", false, "with --update: no longer accept the launcher before an upgrade")

	return c
}

// nameTaken says in the words of this command that a new session's name is
// taken, by oneself or by another key.
func nameTaken(err error, name ident.SessionName, update bool) error {
	p := problem.From(err)
	switch {
	case update:
		return err
	case p.Rule == problem.RuleSessionNameTaken:
		return p.Fix("give another --name, or replace the session's current version with --update")
	case p.Rule == problem.RuleAccessPolicy:
		q := problem.New(problem.Conflict, problem.RuleSessionNameTaken, "the session %q exists already, and belongs to another key", name).
			Want("a new name").Fix("give another --name, or use the identity that created the session (--config)")
		q.RequestID = p.RequestID
		return q
	}
	return err
}

type createReply struct {
	Session      ident.SessionName                         `json:"session"`
	Hash         ident.Digest                              `json:"hash"`
	CAS          string                                    `json:"cas"`
	Measurements map[ident.ServiceName]ident.Measurement   `json:"measurements"`
	Kept         map[ident.ServiceName][]ident.Measurement `json:"kept,omitempty"` // of the launcher before
	Warnings     [][]string                                `json:"warnings,omitempty"`
}

func runSessionCreate(ctx context.Context, g *globals, o sessionOptions) error {
	if o.drop && !o.update {
		return problem.New(problem.Invalid, problem.RuleUsage, "--drop-old without --update").Fix("give both: a new session has nothing to drop")
	}

	side, err := g.ownerSide(ctx)
	if err != nil {
		return err
	}

	in, reviewed, err := side.review(ctx, &o)
	if err != nil {
		return err
	}
	if err := template.Refuse(reviewed.Differences); err != nil {
		return err
	}
	g.warnCommand(in.Command)

	// The CAS first: values are asked for only if there is somebody to give them to.
	c, _, err := side.cas(ctx, o.inputs.cas)
	if err != nil {
		return err
	}
	defer c.Close()

	values, err := o.values.collect(ctx, g, reviewed.Text, o.name, &o.inputs.beside)
	if err != nil {
		return err
	}

	checkName := template.CheckNewSessionName
	if o.update {
		checkName = template.CheckSessionName
	}
	if err := checkName(values.session); err != nil {
		return err
	}

	unfilled := reviewed.Text
	var kept map[ident.ServiceName][]ident.Measurement
	if o.update && !o.drop {
		if unfilled, kept, err = side.keepLauncher(ctx, c, values.session, in, reviewed.Measurements); err != nil {
			return err
		}
	}

	text, err := session.Fill(unfilled, values.get)
	if err != nil {
		return err
	}

	if o.update {
		if text, err = withPredecessor(ctx, c, values.session, text, side.id.KeyHash); err != nil {
			return err
		}
	}

	want, warnings, err := side.upload(ctx, c, text, o.update)
	if err != nil {
		return err
	}

	if err := side.noteCreated(ctx, string(c.Address()), values.session, want, in); err != nil {
		return err
	}

	reply := createReply{
		Session:      values.session,
		Hash:         want,
		CAS:          string(c.Address()),
		Measurements: reviewed.Measurements,
		Kept:         kept,
		Warnings:     warnings,
	}
	if g.json() {
		return g.printJSON(reply)
	}
	return side.showCreated(reply)
}

// upload gives the CAS a session's text, and makes sure that it keeps this very one.
func (o *ownerSide) upload(ctx context.Context, c *client.CAS, text []byte, update bool) (ident.Digest, [][]string, error) {
	parsed, err := session.Parse(text)
	if err != nil {
		return ident.Digest{}, nil, err
	}

	want := parsed.Hash(o.id.KeyHash)
	created, err := lasting(ctx, o.g, "cupel session read "+string(parsed.Name), func(ctx context.Context) (owners.Created, error) { return c.CreateSession(ctx, text) })
	if err != nil {
		return want, nil, nameTaken(err, parsed.Name, update)
	}

	if created.Hash != want {
		return want, nil, problem.New(problem.Denied, problem.RuleSessionHash, "the CAS answered hash %s", created.Hash).Want("%s, as computed here", want).
			Fix("do not deploy this session: the CAS keeps another one than was sent")
	}

	return want, created.Warnings, nil
}

func (o *ownerSide) showCreated(reply createReply) error {
	g := o.g
	g.printf("session %s\nhash    %s (the CAS's and our own)\ncas     %s\n\n", reply.Session, reply.Hash, reply.CAS)
	if err := o.printMeasurements(reply.Measurements); err != nil {
		return err
	}

	for _, service := range slices.Sorted(maps.Keys(reply.Kept)) {
		for _, m := range reply.Kept[service] {
			g.printf("\n%s may also be %s: the same packages under the launcher before.\n", service, m)
		}
	}

	if len(reply.Kept) > 0 {
		g.printf("When nothing runs on it any more, update again with --drop-old.\n")
	}

	for _, chain := range reply.Warnings {
		g.warnf("Warning: %s", strings.Join(chain, ": "))
	}

	return nil
}

// noteCreated keeps where a session is and what it was made from.
func (o *ownerSide) noteCreated(ctx context.Context, cas string, name ident.SessionName, hash ident.Digest, in template.Inputs) error {
	return o.dir.UpdateSessions(context.WithoutCancel(ctx), func(all home.Sessions) error {
		all[name] = home.SessionRecord{
			CAS:            cas,
			Runtime:        in.Runtime,
			Command:        in.Command,
			Volume:         in.Volume,
			DNS:            in.DNS,
			Ref:            template.PinnedRef(in.Ref),
			OnRenewal:      in.OnRenewal,
			Simulation:     in.Simulation != nil,
			SimulationRoot: in.Simulation,
			Hash:           hash,
			At:             o.g.now().UTC(),
		}
		return nil
	})
}

// keepLauncher returns the template that an update fills in: one that accepts, beside the
// measurements that were reviewed, those of the same packages under the launcher before,
// as the session has them now. These are returned too.
func (o *ownerSide) keepLauncher(ctx context.Context, c *client.CAS, name ident.SessionName, in template.Inputs,
	reviewed map[ident.ServiceName]ident.Measurement,
) ([]byte, map[ident.ServiceName][]ident.Measurement, error) {
	current, err := c.ReadSession(ctx, name, nil)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := session.Parse([]byte(current.Text))
	if err != nil {
		return nil, nil, err
	}
	values, err := o.dir.Values()
	if err != nil {
		return nil, nil, err
	}

	in.Measurements = reviewed
	in.Also = reference.Kept(parsed, values, reviewed)
	text, err := template.Render(in)
	return text, in.Also, err
}
