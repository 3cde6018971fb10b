package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/internal/trusted/problem"
)

// exactArgs wants one argument for each name.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return problem.New(problem.Invalid, "usage", "%d arguments", len(args)).
			Want("%s", strings.Join(names, " ")).Fix("see '%s --help'", c.CommandPath())
	}
}
