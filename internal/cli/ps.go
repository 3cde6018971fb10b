package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/client/manager"
)

type psOptions struct {
	managerAs
	app string
	all bool
}

func newPsCommand(g *globals) *cobra.Command {
	o := psOptions{managerAs: managerAs{g: g}}
	c := &cobra.Command{
		Use:   "ps [APP]",
		Short: "List apps and their instances",
		Long: `Lists instances as the manager says they are. ATTESTED is the operator's word:
'cupel verify APP' asks the CAS.`,
		Example:           "  cupel ps\n  cupel ps my-app -o json",
		Args:              exactArgs("[APP]"),
		ValidArgsFunction: g.completeApps,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.app = args[0]
			}
			return runPs(c.Context(), g, o)
		},
	}
	o.flags(c)
	c.Flags().BoolVarP(&o.all, "all", "a", false, "with pull jobs that ended")
	return c
}

// psReply is the answer of `ps -o json`.
type psReply struct {
	Apps      []manager.App      `json:"apps"`
	Instances []manager.Instance `json:"instances"`
}

func runPs(ctx context.Context, g *globals, o psOptions) error {
	m, _, err := o.dial(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	r := psReply{Apps: []manager.App{}, Instances: []manager.Instance{}}
	if o.app != "" {
		a, err := m.App(ctx, o.app)
		if err != nil {
			return err
		}
		r.Apps = append(r.Apps, a)
	} else if r.Apps, err = m.Apps(ctx); err != nil {
		return err
	}
	list, err := m.Instances(ctx, o.app)
	if err != nil {
		return err
	}
	for _, i := range list {
		if o.all || i.Role == "app" || i.State != "exited" {
			r.Instances = append(r.Instances, i)
		}
	}
	if g.json() {
		return g.printJSON(r)
	}
	if len(r.Apps) == 0 {
		g.printf("no apps; deploy one: cupel deploy SESSION\n")
		return nil
	}
	return g.printInstances(r)
}

// printInstances writes the table of instances; apps without any have a line.
func (g *globals) printInstances(r psReply) error {
	var rows [][]string
	for _, a := range r.Apps {
		n := 0
		for _, i := range r.Instances {
			if i.AppID == a.ID {
				rows = append(rows, g.instanceRow(i))
				n++
			}
		}
		if n == 0 {
			rows = append(rows, []string{a.Name, "-", string(a.State), "-", "-", "-", portCell(a.Port), g.age(a.CreatedAt), "-"})
		}
	}
	if err := g.table([]string{"APP", "INSTANCE", "STATE", "HEALTH", "RESTARTS", "MEMORY", "PORT", "AGE", "ATTESTED"}, rows); err != nil {
		return err
	}
	for _, a := range r.Apps {
		if p := a.Problem; p != nil {
			g.printf("\n%s: %s: %s\n  mend: %s\n", a.Name, p.Rule, p.Actual, p.Mend)
		}
	}
	return nil
}

func (g *globals) instanceRow(i manager.Instance) []string {
	memory := manager.FormatMemory(i.Memory)
	if i.MemoryUsed > 0 {
		memory = manager.FormatMemory(i.MemoryUsed) + "/" + memory
	}
	state := i.State
	switch {
	case i.Role == "pull":
		state = "pull " + state
	case i.State == "waiting" && !i.NextStart.IsZero():
		state = fmt.Sprintf("waiting (%ds)", max(0, int(i.NextStart.Sub(g.now()).Seconds())))
	case i.State == "starting" && i.Phase != "", i.State == "stopping" && i.Phase == "committing":
		state = i.Phase
	}
	switch {
	case i.State == "running":
	case i.OOMKilled:
		state += " (out of memory)"
	case i.Problem != nil:
		state += " (" + strings.ReplaceAll(i.Problem.Rule, "_", " ") + ")"
	}
	return []string{
		i.App, i.ID, state, orElse(i.Health, "-"), strconv.Itoa(i.Restarts), memory, portCell(i.Port), g.age(i.CreatedAt), attestedCell(i),
	}
}

func portCell(p uint16) string {
	if p == 0 {
		return "-"
	}
	return strconv.Itoa(int(p))
}

func attestedCell(i manager.Instance) string {
	switch {
	case !i.Attested:
		return "no"
	case i.Simulated:
		return "yes (SIMULATED)"
	}
	return "yes"
}
