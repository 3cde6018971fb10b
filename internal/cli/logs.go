package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/wording"
)

type logsOptions struct {
	managerAs
	ref      string
	follow   bool
	since    string
	tail     int
	puller   bool
	previous bool
}

func newLogsCommand(g *globals) *cobra.Command {
	o := logsOptions{managerAs: managerAs{g: g}}
	c := &cobra.Command{
		Use:   "logs APP|INSTANCE",
		Short: "Show what instances wrote to standard output and error",
		Example: `  cupel logs my-app -f
  cupel logs i-3f9k2m1x --since 10m --tail 100
  cupel logs my-app --puller`,
		Args:              exactArgs("APP|INSTANCE"),
		ValidArgsFunction: g.complete(first(o.apps(), o.managerAs.instances())),
		RunE: func(c *cobra.Command, args []string) error {
			o.ref = args[0]
			if o.tail < 0 && c.Flags().Changed("tail") {
				return problem.New(problem.Invalid, problem.RuleUsage, "--tail %d", o.tail).Want("0 or more").Fix("leave it out for all lines")
			}
			return runLogs(c.Context(), g, o)
		},
	}

	o.flags(c)
	f := c.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on with what is written from now on, over restarts and updates")
	f.StringVar(&o.since, "since", "", "only lines since then: a duration such as 10m, or a time as in RFC 3339")
	f.IntVar(&o.tail, "tail", -1, "only so many of the newest lines of each instance (default: all)")
	f.BoolVar(&o.puller, "puller", false, "the job that pulled the repository, instead of the app")
	f.BoolVar(&o.previous, "previous", false, "the run before the last restart: kept until the next one fails")

	return c
}

func runLogs(ctx context.Context, g *globals, o logsOptions) error {
	since, err := g.parseSince(o.since)
	if err != nil {
		return err
	}

	m, _, err := o.dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()

	ids, err := o.instances(ctx, m)
	if err != nil {
		return err
	}

	opts := client.LogOptions{
		Follow:   o.follow,
		Since:    since,
		Tail:     o.tail,
		Previous: o.previous,
	}
	if !o.follow {
		for _, id := range ids {
			if err := m.Logs(ctx, ident.InstanceRef(id), opts, func(l manager.LogLine) error { return g.printLog(l, len(ids) > 1) }); err != nil {
				return err
			}
		}
		return nil
	}

	return g.whileRead(ctx, func(ctx context.Context) error { return o.followLogs(ctx, g, m, ids, opts) })
}

// role is what the instances are for whose output is meant.
func (o *logsOptions) role() string {
	if o.puller {
		return manager.RolePull
	}
	return manager.RoleApp
}

// instances returns whose output is meant: one instance, or all of an app.
func (o *logsOptions) instances(ctx context.Context, m *client.Manager) ([]string, error) {
	list, err := m.Instances(ctx, "")
	if err != nil {
		return nil, err
	}

	app, err := o.theApp(ctx, m, list)
	if err != nil {
		return nil, err
	}

	role := o.role()
	var ids []string
	known := false
	pulled := false
	for _, i := range list {
		if i.ID == o.ref {
			return []string{i.ID}, nil
		}

		if i.App == o.ref && (app == "" || i.AppID == app) || i.AppID == o.ref {
			known = true
			pulled = pulled || i.Role == manager.RolePull
			if i.Role == role {
				ids = append(ids, i.ID)
			}
		}
	}

	if len(ids) > 0 {
		if o.puller {
			ids = ids[len(ids)-1:] // the newest pull
		}
		return ids, nil
	}

	if !known {
		if _, err := m.App(ctx, ident.AppRef(o.ref)); err != nil { // which also says if it is somebody else's
			return nil, err
		}
	}

	none := problem.New(problem.NotFound, problem.RuleLogs, "%s has no such instance yet", o.ref)
	if pulled {
		return nil, none.Fix("see what the job that pulls its repository wrote: cupel logs %s --puller", o.ref)
	}
	return nil, none.Fix("see 'cupel events'")
}

// theApp is the id of the app that is meant where several keys have one of that name, as
// the manager says; it refuses what may be either. Empty: no other one is shown.
func (o *logsOptions) theApp(ctx context.Context, m *client.Manager, list []manager.Instance) (string, error) {
	named := map[string]bool{}
	for _, i := range list {
		if i.App == o.ref {
			named[i.AppID] = true
		}
	}

	if len(named) < 2 {
		return "", nil
	}

	app, err := m.App(ctx, ident.AppRef(o.ref))
	return app.ID, err
}

func (g *globals) printLog(l manager.LogLine, prefix bool) error {
	if g.json() {
		return g.printLine(l)
	}

	w := g.out
	if l.Stream == "stderr" {
		w = g.err
	}

	line := l.Line
	if isTerminal(w) { // elsewhere it is data
		line = colored(line)
	}
	if prefix {
		line = wording.Line(l.Instance) + "  " + line
	}

	if _, err := w.Write([]byte(line + "\n")); err != nil {
		return unwritten(err)
	}
	return nil
}

func (g *globals) parseSince(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return g.now().Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n > 0 {
		return time.Unix(n, 0), nil
	}

	return time.Time{}, problem.New(problem.Invalid, problem.RuleUsage, "--since %q", s).Want("a duration such as 10m, or a time such as 2026-01-02T15:04:05Z")
}
