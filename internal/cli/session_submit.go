package cli

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/template"
	"cupel.dev/cupel/internal/trusted/session"
)

type submitOptions struct {
	session      string
	instances    int
	services     []string // S=N
	jobs         []string
	app          string
	useBy, until time.Duration
	provider     string
	token        bool
	cas          string
	casInstances string
}

func newSessionSubmitCommand(g *globals) *cobra.Command {
	var o submitOptions
	c := &cobra.Command{
		Use:   "submit NAME",
		Short: "Make a grant to run a session, and print its code",
		Long: `Makes a grant at the session's CAS: the right to run so many copies of its
services. What is printed is a code, one line. Whoever hands it in first can run
that, and nobody after them: give it to one operator, over a road that you trust, and
look who claimed it with 'cupel session grants NAME'.

Without --service and --job it is for pull_repo to run once and for every other
service with --instances. With --token the code is claimed by your own key, and its
token is printed instead: for copies that you start yourself, which show it as
CUPEL_GRANT.

'cupel deploy' does all of this for the manager that it talks to.`,
		Example: `  cupel session submit my-app --instances 3
  cupel session submit my-app --service web=2 --job migrate --use-by 1h --until 720h
  cupel session submit my-app --token --cas-instances cas.example.org:18765`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: g.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.session = args[0]
			if err := goesWith(cmd, "cas-instances", "--token", o.token); err != nil {
				return err
			}

			if cmd.Flags().Changed("instances") && len(o.services)+len(o.jobs) > 0 {
				return problem.New(problem.Invalid, problem.RuleUsage, "--instances with --service or --job").
					Want("one of them").Fix("say how many of each service: --service SERVICE=N")
			}

			return runSessionSubmit(cmd.Context(), g, o)
		},
	}

	f := c.Flags()
	f.IntVar(&o.instances, "instances", 1, "how many instances of each service that isn't a job; not with --service or --job")
	f.StringArrayVar(&o.services, "service", nil, "SERVICE=N: so many instances of this service, and only of those that are named; repeatable")
	f.StringArrayVar(&o.jobs, "job", nil, "SERVICE that may run once, to its end; repeatable")
	f.StringVar(&o.app, "name", "", "what the app is to be called (default: made from the session's name)")
	f.DurationVar(&o.useBy, "use-by", 0, "for how long the code can be handed in (default: 24h)")
	f.DurationVar(&o.until, "until", 0, "when the grant ends, from now (default: never)")
	f.StringVar(&o.provider, "provider", "", "the one operator who may claim the code: the hash of their key, or https://HOST[:PORT] of their manager (CUPEL_PROVIDER; default: the first who does)")
	f.BoolVar(&o.token, "token", false, "claim the code yourself and print its token")
	f.StringVar(&o.cas, "cas", "", "address of the CAS (default: where you created the session)")
	f.StringVar(&o.casInstances, "cas-instances", "", "with --token: where instances reach that CAS (default: as the manager says)")

	return c
}

// submitReply is the answer of `session submit -o json`. One of Code and Token is
// set; both are secrets.
type submitReply struct {
	Grant owners.Grant `json:"grant"`
	Code  string       `json:"code,omitempty"`
	Token string       `json:"token,omitempty"`
}

func runSessionSubmit(ctx context.Context, g *globals, o submitOptions) error {
	name, err := parseSessionArg(o.session)
	if err != nil {
		return err
	}
	if err := template.CheckSessionName(name); err != nil {
		return err
	}

	side, err := g.ownerSide(ctx)
	if err != nil {
		return err
	}
	want, err := o.grant(ctx, g, side, name)
	if err != nil {
		return err
	}

	c, pin, err := side.casOf(ctx, name, o.cas)
	if err != nil {
		return err
	}
	defer c.Close()

	if want.Services == nil {
		if want.Services, err = wholeSession(ctx, c, name, o.instances); err != nil {
			return err
		}
	}

	addr := ""
	if o.token {
		if addr, err = o.claimAt(ctx, g, pin.Identity); err != nil {
			return err // before a grant is made that nobody could claim
		}
	}

	made, err := g.makeGrant(ctx, c, want)
	if err != nil {
		return err
	}

	reply := submitReply{Grant: made.Grant, Code: made.Code}
	if o.token {
		if reply, err = side.claimOwn(ctx, c, addr, made); err != nil {
			return err
		}
	}

	if g.json() {
		return g.printJSON(reply)
	}

	g.printf("%s%s\n", reply.Code, reply.Token)
	return nil
}

// grant is what the flags ask for; Services are nil where they don't say.
func (o *submitOptions) grant(ctx context.Context, g *globals, side *ownerSide, name ident.SessionName) (owners.NewGrant, error) {
	out := owners.NewGrant{Session: name, App: cmp.Or(o.app, manager.AppName(name))}

	services, err := parseGranted(o.services, o.jobs)
	if err != nil {
		return out, err
	}
	if len(services) > 0 {
		out.Services = services
	}

	if o.instances < 1 {
		return out, problem.New(problem.Invalid, problem.RuleInstances, "--instances %d", o.instances).Want("1 or more")
	}
	if o.until > 0 && o.until < o.useBy {
		return out, problem.New(problem.Invalid, problem.RuleUsage, "--until %s ends the grant before its code, --use-by %s", problem.Duration(o.until), problem.Duration(o.useBy)).Fix("give a later --until")
	}

	if o.useBy > 0 {
		at := g.now().UTC().Add(o.useBy)
		out.UseBy = &at
	}
	if o.until > 0 {
		at := g.now().UTC().Add(o.until)
		out.Until = &at
	}

	if out.Provider, err = o.claimer(ctx, g); err != nil {
		return out, err
	}
	if o.token && o.provider != "" && out.Provider != side.id.KeyHash {
		return out, problem.New(problem.Invalid, problem.RuleUsage, "--token with another's --provider").Fix("leave one of them out: with --token you claim it yourself")
	}

	return out, nil
}

// longestHex is how long the name of a host may be that could be a mistyped key.
const longestHex = 32

// claimer is the one key that may claim the code: the one that was named, or that of
// the provider that was named. Zero: the first that does.
func (o *submitOptions) claimer(ctx context.Context, g *globals) (ident.KeyHash, error) {
	if key, err := ident.ParseKeyHash(o.provider); err == nil && !key.IsZero() {
		return key, nil
	}

	if o.provider == "" && (o.token || g.provider == "") {
		return ident.KeyHash{}, nil
	}
	if len(o.provider) > longestHex && strings.Trim(o.provider, "0123456789abcdefABCDEF") == "" {
		return ident.KeyHash{}, problem.New(problem.Invalid, ruleProvider, "--provider is no key").
			Want("the hash of a key, 64 hex digits, or https://HOST[:PORT]").Fix("ask the operator: cupel info shows the key")
	}

	at, err := g.providerAt(ctx, cmp.Or(o.provider, g.provider))
	return at.operator, err
}

// parseGranted reads --service S=N and --job S.
func parseGranted(services, jobs []string) (map[ident.ServiceName]owners.GrantedService, error) {
	out := map[ident.ServiceName]owners.GrantedService{}

	add := func(flag, name string, s owners.GrantedService) error {
		service, err := ident.ParseServiceName(name)
		if err != nil {
			return problem.New(problem.Invalid, problem.RuleService, "--%s: %w", flag, err)
		}
		if _, twice := out[service]; twice {
			return problem.New(problem.Invalid, problem.RuleUsage, "service %s is named twice", service)
		}

		out[service] = s
		return nil
	}

	for _, s := range services {
		name, number, _ := strings.Cut(s, "=")
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 {
			return nil, problem.New(problem.Invalid, problem.RuleUsage, "--service %.100q", s).Want("SERVICE=N, with N from 1 on")
		}

		if err := add("service", name, owners.GrantedService{Instances: n}); err != nil {
			return nil, err
		}
	}
	for _, name := range jobs {
		if err := add("job", name, owners.GrantedService{Runs: 1}); err != nil {
			return nil, err
		}
	}

	return out, nil
}

// wholeSession is a grant for every service of the session: the pull runs once,
// the others serve.
func wholeSession(ctx context.Context, c *client.CAS, name ident.SessionName, instances int) (map[ident.ServiceName]owners.GrantedService, error) {
	text, err := c.ReadSession(ctx, name, nil)
	if err != nil && problem.From(err).Rule == problem.RuleAccessPolicy {
		p := *problem.From(err)
		return nil, p.Fix("who may grant, and not read, says for which services: --service SERVICE=N, and --job SERVICE for the one that pulls")
	}
	if err != nil {
		return nil, err
	}

	parsed, err := session.Parse([]byte(text.Text))
	if err != nil {
		return nil, err
	}

	out := map[ident.ServiceName]owners.GrantedService{}
	for _, s := range parsed.Services {
		out[s.Name] = owners.GrantedService{Instances: instances}
		if s.Name == template.PullService {
			out[s.Name] = owners.GrantedService{Runs: 1}
		}
	}

	return out, nil
}

// claimAt is where the session's CAS listens for instances.
func (o *submitOptions) claimAt(ctx context.Context, g *globals, cas ident.KeyHash) (string, error) {
	if o.casInstances != "" {
		return o.casInstances, hostPort("cas-instances", o.casInstances)
	}

	at, err := g.manager(ctx)
	if err == nil && at.CAS.Identity == cas {
		return at.CAS.Instances, nil
	}

	return "", problem.New(problem.Invalid, ruleCASInstances, "where this CAS listens for instances is not known").
		Fix("give --cas-instances HOST:PORT; its port is 18765 unless somebody chose another")
}

// claimOwn claims a grant with the owner's own key. A grant whose token nobody
// gets is withdrawn.
func (o *ownerSide) claimOwn(ctx context.Context, c *client.CAS, addr string, made owners.GrantMade) (submitReply, error) {
	code, err := owners.ParseGrantCode(made.Code)
	if err != nil {
		return submitReply{}, err
	}

	holder := &client.Holder{Certificate: o.id.Certificate, Now: o.g.now}
	claimed, err := holder.Claim(ctx, ident.Address(addr), code)
	if err != nil {
		o.g.withdraw(ctx, c, made.Grant)
		return submitReply{}, err
	}

	made.Grant.State = owners.GrantClaimed
	made.Grant.ClaimedBy = o.id.KeyHash
	return submitReply{Grant: made.Grant, Token: claimed.Token.Reveal()}, nil
}
