package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
)

type grantsOptions struct {
	session   string
	grant     string
	instances int
	services  []string
	withdraw  string

	instancesGiven bool
	cas            string
}

func newSessionGrantsCommand(g *globals) *cobra.Command {
	var o grantsOptions
	c := &cobra.Command{
		Use:   "grants NAME",
		Short: "List who may run a session; change a number, or withdraw",
		Long: `Lists the session's grants as its CAS keeps them: who claimed each, and who has
its places. With --grant it changes how many instances one lets run, at once and
under the same token; fewer than run now stops nobody, but no other starts. With
--withdraw it ends one: all that run under it lose their rights at once, and their
launchers stop them. A grant is named by its id, or the beginning of one.

The number of instances of an app that is deployed is changed by 'cupel deploy'.`,
		Example: `  cupel session grants my-app
  cupel session grants my-app --grant 3f9c01d2 --instances 5
  cupel session grants my-app --withdraw 3f9c01d2`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: g.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.session = args[0]
			o.instancesGiven = cmd.Flags().Changed("instances")
			return runSessionGrants(cmd.Context(), g, o)
		},
	}

	f := c.Flags()
	f.StringVar(&o.grant, "grant", "", "the grant to change")
	f.IntVar(&o.instances, "instances", 0, "with --grant: how many instances of the service that serves")
	f.StringArrayVar(&o.services, "service", nil, "with --grant: SERVICE=N; repeatable")
	f.StringVar(&o.withdraw, "withdraw", "", "the grant to end")
	f.StringVar(&o.cas, "cas", "", "address of the CAS (default: where you created the session)")
	for _, flag := range []string{"grant", "withdraw"} {
		_ = c.RegisterFlagCompletionFunc(flag, g.completeGrants)
	}

	return c
}

func runSessionGrants(ctx context.Context, g *globals, o grantsOptions) error {
	changes := o.instancesGiven || len(o.services) > 0
	if changes != (o.grant != "") || o.grant != "" && o.withdraw != "" {
		return problem.New(problem.Invalid, problem.RuleUsage, "--grant goes with --instances or --service, and not with --withdraw").Fix("see 'cupel session grants --help'")
	}
	if o.instancesGiven && o.instances < 1 {
		return problem.New(problem.Invalid, problem.RuleInstances, "--instances %d", o.instances).Want("1 or more").Fix("to end the grant: --withdraw %s", o.grant)
	}

	name, c, err := g.sessionAt(ctx, o.session, o.cas)
	if err != nil {
		return err
	}
	defer c.Close()

	all, err := c.Grants(ctx, name)
	if err != nil {
		return err
	}

	switch {
	case o.withdraw != "":
		grant, err := findGrant(all, name, o.withdraw)
		if err != nil {
			return err
		}
		return withdrawGrant(ctx, g, c, grant)
	case changes:
		grant, err := findGrant(all, name, o.grant)
		if err != nil {
			return err
		}
		return changeGrant(ctx, g, c, grant, o)
	}

	if g.json() {
		return g.printJSON(append([]owners.Grant{}, all...))
	}
	if len(all) == 0 {
		g.printf("session %s has no grants: unless its access_policy says deploy: [ANY], nobody may run it; cupel deploy %s and cupel session submit %s make one\n", name, name, name)
		return nil
	}

	return g.printGrants(all)
}

func withdrawGrant(ctx context.Context, g *globals, c *client.CAS, grant owners.Grant) error {
	ended, err := lasting(ctx, g, "cupel session grants "+string(grant.Session), func(ctx context.Context) (owners.Grant, error) { return c.WithdrawGrant(ctx, grant.ID) })
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(ended)
	}

	if grant.State == owners.GrantEnded {
		g.printf("grant %s had ended\n", grant.ID.Short())
		return nil
	}

	g.printf("grant %s is withdrawn: what ran under it has lost its rights\n", grant.ID.Short())
	for _, lost := range ended.Lost {
		g.warnf("Warning: %s", lost)
	}

	return nil
}

func changeGrant(ctx context.Context, g *globals, c *client.CAS, grant owners.Grant, o grantsOptions) error {
	services, err := parseGranted(o.services, nil)
	if err != nil {
		return err
	}

	if o.instancesGiven {
		service, err := theServing(grant)
		if err != nil {
			return err
		}
		if _, both := services[service]; both {
			return problem.New(problem.Invalid, problem.RuleInstances, "--instances %d and --service %s=…", o.instances, service).Want("one of them")
		}
		services[service] = owners.GrantedService{Instances: o.instances}
	}

	changed, err := lasting(ctx, g, "cupel session grants "+string(grant.Session), func(ctx context.Context) (owners.Grant, error) {
		return c.ChangeGrant(ctx, grant.ID, owners.GrantChange{Services: services})
	})
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(changed)
	}
	return g.printGrants([]owners.Grant{changed})
}

// theServing is the one service of a grant that isn't a job.
func theServing(grant owners.Grant) (ident.ServiceName, error) {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(grant.Services)) {
		if grant.Services[name].Runs == 0 {
			names = append(names, string(name))
		}
	}

	if len(names) == 1 {
		return ident.ServiceName(names[0]), nil
	}

	return "", problem.New(problem.Invalid, problem.RuleService, "grant %s is for %s that would serve", grant.ID.Short(), problem.Count(len(names), "service")).
		Want("one of: %s", strings.Join(names, ", ")).Fix("say which with --service SERVICE=N")
}

// grantDigits is how much of a grant's id it takes to name it.
const grantDigits = 4

// findGrant returns the grant with that id, or the only one whose id begins so.
func findGrant(all []owners.Grant, session ident.SessionName, ref string) (owners.Grant, error) {
	var found []owners.Grant
	for _, g := range all {
		if strings.HasPrefix(g.ID.String(), strings.ToLower(ref)) {
			found = append(found, g)
		}
	}

	list := "list them: cupel session grants " + string(session)
	switch {
	case len(ref) < grantDigits:
		return owners.Grant{}, problem.New(problem.Invalid, problem.RuleGrantUnknown, "a grant can't be named by %s", problem.Count(len(ref), "digit")).
			Want("its id, or the first %d digits or more", grantDigits).Fix("%s", list)
	case len(found) == 0:
		return owners.Grant{}, problem.New(problem.NotFound, problem.RuleGrantUnknown, "no grant of session %s has an id that begins with %.40q", session, ref).
			Want("its id, or the first %d digits or more", grantDigits).Fix("%s", list)
	case len(found) > 1:
		return owners.Grant{}, problem.New(problem.NotFound, problem.RuleGrantUnknown, "%d grants of session %s have ids that begin with %.40q", len(found), session, ref).
			Want("more digits, so that one is left").Fix("%s", list)
	}

	return found[0], nil
}

func (g *globals) printGrants(all []owners.Grant) error {
	var rows [][]string
	for _, grant := range all {
		claimed := "-"
		if !grant.ClaimedBy.IsZero() {
			claimed = grant.ClaimedBy.Short()
		}

		rows = append(rows, []string{
			grant.ID.Short(), grant.App, g.grantState(grant), grant.Maker.Short(), claimed, g.age(grant.Made), placesCell(grant),
		})
	}

	return g.table([]string{"GRANT", "APP", "STATE", "MADE BY", "CLAIMED BY", "AGE", "IN USE"}, rows)
}

// grantState says in words how a grant stands, with the time or reason that this depends on.
func (g *globals) grantState(grant owners.Grant) string {
	switch {
	case grant.State == owners.GrantEnded:
		return "ended (" + strings.ReplaceAll(grant.EndReason, "_", " ") + ")"
	case grant.State == owners.GrantOpen && !g.now().Before(grant.UseBy):
		return "not used in time"
	case grant.State == owners.GrantOpen:
		return "open, to be used before " + grant.UseBy.Local().Format(time.DateTime)
	case grant.Until != nil:
		return "claimed, until " + grant.Until.Local().Format(time.DateTime)
	}
	return string(grant.State)
}

// placesCell says how many places of each service are taken.
func placesCell(grant owners.Grant) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(grant.Services)) {
		s, p := grant.Services[name], grant.Places[name]
		if s.Runs > 0 {
			out = append(out, fmt.Sprintf("%s ran %d of %d", name, p.Used, s.Runs))
			continue
		}
		out = append(out, fmt.Sprintf("%s %d of %d", name, len(p.Instances), s.Instances))
	}

	return strings.Join(out, ", ")
}
