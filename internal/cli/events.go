package cli

import (
	"cmp"
	"context"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
)

type eventsOptions struct {
	managerAs
	app    string
	follow bool
	after  uint64
}

func newEventsCommand(g *globals) *cobra.Command {
	o := eventsOptions{managerAs: managerAs{g: g}}
	c := &cobra.Command{
		Use:               "events [APP]",
		Short:             "Show what the manager decided, and why",
		Example:           "  cupel events -f\n  cupel events my-app -o json",
		Args:              exactArgs("[APP]"),
		ValidArgsFunction: g.complete(first(o.apps())),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.app = args[0]
			}
			return runEvents(c.Context(), g, o)
		},
	}

	o.flags(c)
	f := c.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on with new ones")
	f.Uint64Var(&o.after, "after", 0, "only events with a greater number")

	return c
}

func runEvents(ctx context.Context, g *globals, o eventsOptions) error {
	m, _, err := o.dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()

	show := func(e manager.Event) error {
		if g.json() {
			return g.printLine(e)
		}

		mark := " "
		if e.Warning {
			mark = "!"
		}

		who := cmp.Or(e.Instance, e.App)
		if e.Instance != "" && e.App != "" {
			who = e.App + "/" + e.Instance
		}

		g.printf("%6d  %s %s %-24s %-28s %s\n", e.Seq, e.Time.Local().Format(time.DateTime), mark, e.Reason, who, g.inState(e.Message))
		return g.unsaid
	}

	err = g.whileRead(ctx, func(ctx context.Context) error { return m.Events(ctx, o.after, ident.AppRef(o.app), o.follow, show) })
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
