package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/wording"
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
		Long: `Lists instances as the manager says they are; below them, what is the matter with
those that don't serve, and why an app's newest deployment failed. ATTESTED is the operator's word: 'cupel verify APP' asks the
CAS.`,
		Example:           "  cupel ps\n  cupel ps my-app -o json",
		Args:              exactArgs("[APP]"),
		ValidArgsFunction: g.complete(first(o.apps())),
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
		a, err := m.App(ctx, ident.AppRef(o.app))
		if err != nil {
			return err
		}
		r.Apps = append(r.Apps, a)
	} else if r.Apps, err = m.Apps(ctx); err != nil {
		return err
	}

	list, err := m.Instances(ctx, ident.AppRef(o.app))
	if err != nil {
		return err
	}

	for _, i := range list {
		if o.all || i.Role == manager.RoleApp || i.State != manager.InstanceExited {
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

// printInstances writes the table of instances; apps without any have a line. It is to
// fit into 80 columns. What is the matter with some stands below.
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
			rows = append(rows, []string{a.Name, "-", string(a.State), "-", "-", portCell(a.Port), g.age(a.CreatedAt), "-"})
		}
	}

	header := []string{"APP", "INSTANCE", "STATE", "RESTARTS", "MEMORY", "PORT", "AGE", "ATTESTED"}
	if err := g.coloredTable(header, rows, instanceInk); err != nil {
		return err
	}

	for _, a := range r.Apps {
		a = g.explainMeasurements(a, r.Instances)
		if a.Problem != nil {
			g.printTrouble(a.Name, a.Problem)
		}
		if why := failedDeployment(a, r.Instances); why != nil {
			g.printTrouble(fmt.Sprintf("%s: deployment of revision %d failed", a.Name, a.Deployment.Revision), why)
		}
	}

	g.printTroubles(r.Instances)
	return nil
}

// explainMeasurements gives what is said of an app's other code a mend that fits: the CAS,
// which refused it, knows of no runtimes.
func (g *globals) explainMeasurements(a manager.App, list []manager.Instance) manager.App {
	mend := func(p *problem.Error) *problem.Error {
		if p == nil || p.Rule != problem.RuleMeasurement {
			return p
		}

		q := *p
		return q.Fix("%s", measurementMend(a.Session, g.recordedRuntime(a.Session), a.Runtime, false))
	}

	a.Deployment.Problem = mend(a.Deployment.Problem)
	for i := range list {
		if list[i].AppID == a.ID {
			list[i].Problem = mend(list[i].Problem)
		}
	}

	return a
}

// recordedRuntime is the runtime that a session was created for, where the owner's folder
// knows it; empty: it doesn't, or there is none.
func (g *globals) recordedRuntime(s ident.SessionName) string {
	if _, err := os.Stat(g.config); err != nil {
		return ""
	}

	dir, err := g.ownerDir()
	if err != nil {
		return ""
	}

	records, err := dir.Sessions()
	if err != nil {
		return ""
	}
	return records[s].Runtime
}

// failedDeployment is why the app's newest deployment failed, where nothing else below
// the table says it.
func failedDeployment(a manager.App, list []manager.Instance) *problem.Error {
	why := a.Deployment.Problem
	if why == nil || a.Deployment.State != manager.DeploymentFailed || a.Problem != nil && a.Problem.Rule == why.Rule {
		return nil
	}

	for _, i := range list {
		if t, ok := troubleOf(i); ok && i.AppID == a.ID && t.rule == why.Rule && strings.HasSuffix(why.Actual, t.actual) { // it may say besides when it gave up
			return nil
		}
	}

	return why
}

func (g *globals) printTrouble(who string, p *problem.Error) {
	g.printf("\n%s\n", folded(who+": "+wording.Reason(p), "    ", g.width()))
	for _, line := range []struct{ title, text string }{{"expected:", p.Expected}, {"mend:", g.inState(p.Mend)}} {
		if line.text != "" {
			g.printf("  %s\n", folded(line.title+" "+line.text, "    ", g.width()))
		}
	}
}

// trouble is what is the matter with an instance. Instances of an app that have the same
// trouble are told once.
type trouble struct {
	app    string
	rule   problem.Rule
	actual string
}

// troubleOf returns the trouble of an instance; false where it serves.
func troubleOf(i manager.Instance) (trouble, bool) {
	if i.Problem == nil || i.State == manager.InstanceRunning && i.Health != manager.Unhealthy {
		return trouble{}, false
	}
	return trouble{i.AppID, i.Problem.Rule, i.Problem.Actual}, true
}

// printTroubles says what is the matter with instances that don't serve, equal ones
// once.
func (g *globals) printTroubles(list []manager.Instance) {
	alike := map[trouble]int{}
	for _, i := range list {
		if k, ok := troubleOf(i); ok {
			alike[k]++
		}
	}

	for _, i := range list {
		k, ok := troubleOf(i)
		if !ok || alike[k] == 0 {
			continue
		}

		who := i.App + "/" + i.ID
		if alike[k] > 1 {
			who += " and " + problem.Count(alike[k]-1, "other")
		}

		alike[k] = 0
		g.printTrouble(who, i.Problem)
	}
}

// Columns of an instance that have a colour.
const (
	stateColumn    = 2
	attestedColumn = 7
)

// States in the table that stand out: an app's where it has no instance, else an
// instance's state or, where it runs, its health.
var (
	badStates  = []string{manager.Unhealthy, manager.InstanceExited, string(manager.AppFailed), string(manager.AppDown)}
	goodStates = []string{manager.Healthy, manager.InstanceRunning}
)

func instanceInk(column int, text string) ink {
	switch {
	case column == attestedColumn && text == "no", column == stateColumn && slices.Contains(badStates, text):
		return red
	case column == attestedColumn && text == simulatedCell:
		return yellow
	case column == stateColumn && slices.Contains(goodStates, text):
		return green
	case column == stateColumn:
		return yellow
	}
	return plainInk
}

func (g *globals) instanceRow(i manager.Instance) []string {
	memory := manager.FormatMemory(i.Memory)
	if i.MemoryUsed > 0 {
		memory = wholeMemory(i.MemoryUsed) + "/" + memory
	}

	state := i.State
	switch {
	case i.State == manager.InstanceWaiting && !i.NextStart.IsZero():
		state = fmt.Sprintf("waiting %ds", max(0, int(i.NextStart.Sub(g.now()).Seconds())))
	case i.State == manager.InstanceStarting && i.Phase != "", i.State == manager.InstanceStopping && i.Phase == manager.PhaseCommitting:
		state = i.Phase
	case i.State == manager.InstanceRunning && i.Health != "":
		state = i.Health // it runs, and that is what counts
	}

	if i.Role == manager.RolePull {
		state = "pull " + state
	}

	return []string{
		i.App,
		i.ID,
		state,
		strconv.Itoa(i.Restarts),
		memory,
		portCell(i.Port),
		g.age(i.CreatedAt),
		attestedCell(i),
	}
}

// wholeMemory is FormatMemory without the part behind the point where the number before it
// has two digits.
func wholeMemory(n uint64) string {
	for unit := uint64(1 << 30); unit >= 1<<10; unit >>= 10 {
		if n >= 10*unit {
			return manager.FormatMemory(n / unit * unit)
		}
	}
	return manager.FormatMemory(n)
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
		return simulatedCell
	}
	return "yes"
}

// simulatedCell says that an instance is attested, and that no TEE protects it.
const simulatedCell = "SIMULATED"
