package cli

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/template"
	"cupel.dev/cupel/internal/wording"
	"cupel.dev/cupel/runtimes"
)

// inputFlags are the owner's decisions that a template is made from.
type inputFlags struct {
	runtime    string
	command    string
	volume     string
	dns        []string
	ref        string
	onRenewal  string
	simulation bool
	cas        string
	pull, app  string // measurements
	beside     besideFlags
}

func (i *inputFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&i.runtime, "runtime", "", "the runtime that the app runs on, for instance python")
	f.StringVar(&i.command, "command", "", "the app's command line")
	f.StringVar(&i.volume, "volume", "", "name of the encrypted volume (default genesis)")
	f.StringSliceVar(&i.dns, "dns", nil, "name in the app's certificate; repeatable (default localhost)")
	f.StringVar(&i.ref, "ref", "", "branch, tag or commit to pull (default: the repository's own)")
	f.StringVar(&i.onRenewal, "on-renewal", "", "how the app takes a renewed certificate: a signal such as SIGHUP, or none if it reads the files anew (default: its instances are replaced in time)")
	f.BoolVar(&i.simulation, "simulation", false, "tolerate the SIMULATED platform whose root you trusted when you attested the CAS: for tests, keeps nothing secret from the host")
	f.StringVar(&i.cas, "cas", "", "address of the CAS (default: the one attested last)")
	f.StringVar(&i.pull, "pull-measurement", "", "expect this measurement of the puller")
	f.StringVar(&i.app, "app-measurement", "", "expect this measurement of the app's runtime")
	i.beside.add(c)
}

// inputs turns the flags into what a template is rendered from. Measurements that
// no flag names stay out. The simulated root, if any is tolerated, is the one
// that the owner pinned: neither the operator nor a file has a say in it.
func (o *ownerSide) inputs(i *inputFlags) (template.Inputs, error) {
	in := template.Inputs{
		Runtime:      i.runtime,
		Command:      i.command,
		Volume:       i.volume,
		Ref:          template.Pasted(i.ref),
		OnRenewal:    i.onRenewal,
		Measurements: map[ident.ServiceName]ident.Measurement{},
	}

	for _, name := range i.dns {
		in.DNS = append(in.DNS, template.Pasted(name))
	}
	if err := i.beside.inputs(&in); err != nil {
		return in, err
	}

	if i.simulation {
		addr, pin, err := o.pinned(i.cas)
		if err != nil {
			return in, simulationUnpinned(err)
		}
		if in.Simulation, err = pin.Simulation(ident.Address(addr)); err != nil {
			return in, err
		}
	}

	for _, f := range []struct {
		flag, text string
		service    ident.ServiceName
	}{{"pull-measurement", i.pull, template.PullService}, {"app-measurement", i.app, template.AppService}} {
		if f.text == "" {
			continue
		}

		m, err := ident.ParseMeasurement(f.text)
		if err != nil {
			return in, problem.New(problem.Invalid, problem.RuleUsage, "--%s: %w", f.flag, err)
		}
		in.Measurements[f.service] = m
	}
	return in, nil
}

// simulationUnpinned tells who wants a simulated platform tolerated, and has
// attested no CAS, what has to be done first.
func simulationUnpinned(err error) error {
	p := problem.From(err)
	if p.Rule != problem.RuleCASNotAttested {
		return err
	}

	return p.Want("one that was attested: the simulated root that --simulation tolerates is the one that you trusted then").
		Fix("first run: cupel cas attest ADDRESS --trust-simulation ROOT_SHA256 (`cupel up` and `cupel info` show the root)")
}

func newTemplateCommand(g *globals) *cobra.Command {
	var i inputFlags
	c := &cobra.Command{
		Use:   "template",
		Short: "Write a session template for an app in a git repository",
		Long: `Writes a session template to the standard output. What makes it yours (name,
token, repository) stays open: 'cupel session create' fills it in.

With --simulation the session tolerates one simulated platform: the one whose
root you named to 'cupel cas attest --trust-simulation', which comes first.

A user name beside the token (--git-user), a proxy (--proxy) and variables for the
app alone (--env, --secret) stand in it by their names. Their values are filled in
by 'session create', which takes the same flags.

Measurements are those that you vouched for (cupel runtime measure), else those
that the operator offers (of this machine, or --provider). Whoever hands you a template may have
changed it: 'cupel session create' makes it again from your own inputs and
refuses every difference.`,
		Example: `  cupel template --runtime python --command "python3 /home/client-app/repo/client-app.py" > client-session.yml
  cupel template --runtime python --command "python3 /home/client-app/repo/client-app.py" \
    --git-user x-token-auth --env LANGUAGE --secret API_KEY > client-session.yml`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runTemplate(cmd.Context(), g, i) },
	}

	i.add(c)
	_ = c.RegisterFlagCompletionFunc("runtime", g.completeRuntimes)
	return c
}

// templateReply is the answer of `template -o json`.
type templateReply struct {
	Template     string                                  `json:"template"`
	Measurements map[ident.ServiceName]ident.Measurement `json:"measurements"`
}

func runTemplate(ctx context.Context, g *globals, i inputFlags) error {
	if i.runtime == "" || i.command == "" {
		return problem.New(problem.Invalid, problem.RuleTemplateInput, "no runtime, or no command").Want("both").Fix("give --runtime and --command")
	}

	dir, err := g.ownerDir()
	if err != nil {
		return err
	}

	side := &ownerSide{g: g, dir: dir} // a template needs no identity
	in, err := side.inputs(&i)
	if err != nil {
		return err
	}

	for _, service := range []ident.ServiceName{template.PullService, template.AppService} {
		if !in.Measurements[service].IsZero() {
			continue
		}

		m, err := side.measurementOf(ctx, in.RuntimeOf(service))
		if err != nil {
			return err
		}
		in.Measurements[service] = m
	}

	text, err := template.Render(in)
	if err != nil {
		return err
	}

	g.warnCommand(i.command)
	if g.json() {
		return g.printJSON(templateReply{string(text), in.Measurements})
	}
	return g.printDocument(string(text))
}

// measurementOf finds a runtime's measurement: as vouched for, else as the
// operator of this machine says.
func (o *ownerSide) measurementOf(ctx context.Context, runtime string) (ident.Measurement, error) {
	m, ok, err := o.vouchedFor(runtime)
	if err != nil || ok {
		return m, err
	}

	offered, err := o.g.offeredRuntimes(ctx)
	if err != nil {
		return m, err
	}

	for _, r := range offered {
		if r.Name == runtime {
			return offeredMeasurement(r)
		}
	}

	unknown := problem.New(problem.NotFound, ruleRuntimeUnmeasured, "the measurement of the runtime %s is not known here", runtime).
		Fix("rebuild and measure it: cupel runtime measure %s --lock FILE", runtime)
	known := append(runtimeNames(offered), runtimes.Names()...)
	if near := problem.Nearest(runtime, known); near != "" && near != runtime {
		unknown.Want("one of: %s", strings.Join(slices.Compact(slices.Sorted(slices.Values(known))), ", ")).Fix("did you mean %q?", near)
	}
	return m, unknown
}

// offeredMeasurement is the measurement of a runtime as the operator says it: none of one
// that can't be used.
func offeredMeasurement(r manager.Runtime) (ident.Measurement, error) {
	if r.Problem == nil && !r.Measurement.IsZero() {
		return r.Measurement, nil
	}

	why := "they say none"
	mend := ""
	if r.Problem != nil {
		why = wording.Reason(r.Problem)
	}
	if r.Problem != nil && r.Problem.Source == "" { // else the advice isn't ours to give
		mend = r.Problem.Mend
	}

	return ident.Measurement{}, problem.New(problem.Unavailable, ruleRuntimeUnmeasured, "the operator's runtime %s has no measurement: %s", r.Name, why).
		Fix("%s", cmp.Or(mend, "let the operator build it anew: cupel runtime build "+r.Name))
}

// offeredRuntimes asks the manager, if there is one; a provider that was named has to
// answer. Nothing rests on its word: sessions are only created with measurements that
// the owner vouches for.
func (g *globals) offeredRuntimes(ctx context.Context) ([]manager.Runtime, error) {
	at, err := g.manager(ctx)
	if err != nil && g.provider != "" {
		return nil, err
	}
	if err != nil {
		g.logger().Info("no manager to ask for runtimes", "error", err)
		return nil, nil
	}

	m := at.dial(nil)
	defer m.Close()
	all, err := m.Runtimes(ctx)
	if err != nil {
		g.logger().Info("no runtimes from the manager", "error", err)
		return nil, nil
	}
	return all, nil
}
