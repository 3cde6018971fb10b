package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/home"
)

type sessionRmOptions struct {
	cas string
	yes bool
}

func newSessionRmCommand(g *globals) *cobra.Command {
	var o sessionRmOptions
	c := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a session from the CAS, with its values and volume keys",
		Long: `Removes a session with all its versions, generated values and volume keys, and ends
its grants and the rights of its instances, whose launchers then stop their apps.

There is no way back: what the session's volumes hold stays on the nodes as
ciphertext that nobody can read any more. The name stays its creator's, who may
create a session of that name again; nobody else may. A session that has others
below it (NAME/…) goes after those.`,
		Example: `  cupel session rm my-app
  cupel session rm my-app --yes -o json`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: g.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSessionRm(cmd.Context(), g, args[0], o)
		},
	}

	f := c.Flags()
	f.StringVar(&o.cas, "cas", "", "address of the CAS (default: where you created the session)")
	f.BoolVar(&o.yes, "yes", false, "don't ask")
	return c
}

func runSessionRm(ctx context.Context, g *globals, arg string, o sessionRmOptions) error {
	name, err := parseSessionArg(arg)
	if err != nil {
		return err
	}

	side, err := g.ownerSide(ctx)
	if err != nil {
		return err
	}
	c, _, err := side.casOf(ctx, name, o.cas)
	if err != nil {
		return err
	}
	defer c.Close()

	if !o.yes {
		if err := g.confirmRemoval(ctx, name); err != nil {
			return err
		}
	}

	removed, err := lasting(ctx, g, "cupel session read "+string(name), func(ctx context.Context) (owners.Removed, error) { return c.RemoveSession(ctx, name) })
	if err != nil {
		return err
	}

	err = side.dir.UpdateSessions(context.WithoutCancel(ctx), func(s home.Sessions) error { delete(s, name); return nil })
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(removed)
	}
	g.showRemoved(removed)
	return nil
}

// confirmRemoval lets a person type the session's name.
func (g *globals) confirmRemoval(ctx context.Context, name ident.SessionName) error {
	if _, ok := g.terminal(); !ok {
		return problem.New(problem.Invalid, problem.RuleNotConfirmed, "no --yes, and no terminal to ask at").
			Fix("say --yes: session %s, its values and its volumes' keys will be gone for good", name)
	}

	answer, err := g.ask(ctx, "Session "+string(name)+", its values and its volumes' keys will be gone for good. Type its name to go on: ")
	if err != nil {
		return err
	}

	if answer != string(name) {
		return problem.New(problem.Invalid, problem.RuleNotConfirmed, "the answer is not %q", name).Fix("nothing was removed; run it again, and type the name, to remove it")
	}
	return nil
}

func (g *globals) showRemoved(r owners.Removed) {
	g.printf("session %s removed: %s, %s and %s ended\n", r.Session,
		problem.Count(r.Versions, "version"), problem.Count(r.Grants, "grant"), problem.Count(r.Instances, "instance"))
	if len(r.Volumes) > 0 {
		g.printf("  what these volumes hold can't be read by anybody any more: %s\n", strings.Join(r.Volumes, ", "))
	}

	g.printf("  the name stays its creator's\n")
	if r.Grants+r.Instances > 0 {
		g.printf("  what ran it stops; who deployed an app of it removes that, too: cupel rm --app APP\n")
	}
}
