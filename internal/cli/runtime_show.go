package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/runtimes"
)

type showOptions struct {
	name string
	lock bool
}

func newRuntimeShowCommand(g *globals) *cobra.Command {
	var o showOptions
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "Show what the operator built a runtime image from",
		Long: `Prints what the operator's newest build of a runtime image was made from: its
definition, or with --lock its lock. It is the operator's word. Read a definition
before you vouch for it with 'cupel runtime measure NAME --definition FILE'.`,
		Example: `  cupel runtime show node > node.yml
  cupel runtime show node --lock --provider https://provider.example.org > node.lock`,
		Args: exactArgs("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			return runRuntimeShow(c.Context(), g, o)
		},
	}

	c.Flags().BoolVar(&o.lock, "lock", false, "the lock instead of the definition")
	return c
}

func runtimeNames(list []manager.Runtime) []string {
	var names []string
	for _, r := range list {
		names = append(names, r.Name)
	}
	return names
}

// showReply is the answer of `runtime show -o json`.
type showReply struct {
	Runtime    string `json:"runtime"`
	Definition string `json:"definition"`
	Lock       string `json:"lock"`
}

func runRuntimeShow(ctx context.Context, g *globals, o showOptions) error {
	if _, err := rebuild.ParseName(o.name); err != nil {
		return err
	}

	at, err := g.manager(ctx)
	if err != nil {
		return err
	}
	src, err := at.registry(sourcesOf(o.name))
	if err != nil {
		return err
	}

	lock, definition, err := src.ReadLock(ctx)
	if problem.KindOf(err) == problem.NotFound {
		m := at.dial(nil)
		defer m.Close()
		list, err := m.Runtimes(ctx)
		if err != nil {
			return err
		}

		built := runtimeNames(list)
		if slices.Contains(built, o.name) {
			return problem.New(problem.NotFound, ruleRuntimeSources, "the operator has an image of %s, and not what it was built from", o.name).
				Fix("let the operator build it anew: cupel runtime build %s", o.name)
		}
		return runtimes.NotBuilt(o.name, built)
	}
	if err != nil {
		return err
	}

	if g.json() {
		return g.printJSON(showReply{o.name, string(definition), string(lock)})
	}

	text := string(definition)
	if o.lock {
		text = string(lock)
	}
	return g.printDocument(text)
}
