package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/internal/trusted/problem"
)

// exactArgs wants one argument for each name; those in brackets, at the end, may
// be left out.
func exactArgs(names ...string) cobra.PositionalArgs {
	least := 0
	for _, n := range names {
		if !strings.HasPrefix(n, "[") {
			least++
		}
	}
	return func(c *cobra.Command, args []string) error {
		if least <= len(args) && len(args) <= len(names) {
			return nil
		}
		got := fmt.Sprintf("%d arguments", len(args))
		if len(args) == 1 {
			got = "1 argument"
		}
		return problem.New(problem.Invalid, "usage", "%s", got).
			Want("%s", strings.Join(names, " ")).Fix("see '%s --help'", c.CommandPath())
	}
}

// groupsRefuse has every command that only holds others refuse a name that it
// doesn't know; without one it shows its help.
func groupsRefuse(c *cobra.Command) {
	for _, sub := range c.Commands() {
		groupsRefuse(sub)
	}
	if !c.HasSubCommands() {
		return
	}
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		p := problem.New(problem.Invalid, "usage", "unknown command %.80q", args[0]).Fix("see '%s --help'", c.CommandPath())
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			p = p.Want("%s", strings.Join(near, " or "))
		}
		return p
	}
}
