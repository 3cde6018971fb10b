package cli

import (
	"github.com/spf13/cobra"
)

func newRuntimeCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "runtime",
		Short: "Build runtime images (operator), vouch for them (owner)",
		Long: `A runtime is the image that apps run on. Its operator builds it out of Debian's
signed packages; its owner builds it again from the same bytes, and vouches for what
it measures.`,
		Example: "  cupel runtime build python      # operator\n  cupel runtime measure python    # owner",
	}
	c.AddCommand(newRuntimeBuildCommand(g), newRuntimeMeasureCommand(g), newRuntimeShowCommand(g), newRuntimeListCommand(g))
	return c
}

func newRuntimeBuildCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "build NAME",
		Short: "Build a runtime image from Debian's packages, reproducibly",
		Long: `Builds a runtime image out of a definition and Debian's signed packages, and stores
it with its sources in the registry. Without a lock the newest versions are taken
and the lock is written; with one, exactly its bytes. Runs cupeld.`,
		Example: "  cupel runtime build python\n  cupel runtime build python --update",
		Args:    exactArgs("NAME"),

		ValidArgsFunction: g.completeRuntimes,
		RunE: func(c *cobra.Command, args []string) error {
			call := []string{"runtime", "build", args[0], "--state", g.state, "--output", g.output}
			return g.runSibling(c.Context(), "cupeld", append(call, ownFlags(c)...)...)
		},
	}

	f := c.Flags()
	f.String("definition", "", "definition file (default: runtimes/NAME.yml if it is there, else the built-in one)")
	f.String("lock", "", "lock file (default: NAME.lock beside the definition file, else in the state folder)")
	f.Bool("update", false, "take the newest packages and write a new lock")
	f.String("mirror", "", "root of a Debian mirror (default: as apt is configured)")
	f.String("registry", "", "registry as HOST:PORT (default: the one in the state folder)")
	f.String("launcher", "", "the launcher that instances will run (default: cupel-init beside cupeld)")
	return c
}
