package cli

import (
	"cmp"
	"slices"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/problem"
)

// Some flags mean something at many commands. Each command heeds some of them and
// refuses the others: a flag that changes nothing misleads who gave it.

// allShared are the names of these flags.
var allShared = []string{"state", "provider", "config", "output", "log-level", "wait"}

// sharedFlags are those that the command with that path heeds.
func sharedFlags(path string) []string {
	switch path {
	case "cupel completion", "cupel help":
		return nil
	case "cupel version":
		return []string{"output"}
	case "cupel cas list", "cupel provider list", "cupel provider forget", "cupel runtime list", "cupel session check":
		return []string{"config", "output"}
	case "cupel audit verify", "cupel volume reset",
		"cupel session create", "cupel session read", "cupel session verify", "cupel session values",
		"cupel session refusals", "cupel session rotate", "cupel session rm", "cupel session grants":
		return []string{"config", "output", "wait"} // they ask a CAS
	case "cupel session submit":
		return []string{"state", "config", "output", "wait"} // its --provider also takes a key
	case "cupel ps", "cupel logs", "cupel events", "cupel info", "cupel volume ls", "cupel volume rm",
		"cupel runtime measure", "cupel runtime show":
		return []string{"state", "provider", "config", "output"} // they ask a manager
	case "cupel template":
		return []string{"state", "provider", "config", "output", "log-level"}
	case "cupel cas attest", "cupel deploy", "cupel rm", "cupel verify":
		return []string{"state", "provider", "config", "output", "wait"} // they ask both
	case "cupel runtime build":
		return []string{"state", "output"}
	case "cupel up", "cupel check", "cupel down", "cupel cleanup", "cupel install-service", "cupel uninstall-service":
		return []string{"state", "output", "log-level"} // cupeld's
	}
	return allShared // a group: a flag may stand before the command that heeds it
}

// defaultLogLevel is what the command with that path logs where nothing is said: cupeld's
// daemon, what it does; others, what somebody has to look at.
func defaultLogLevel(path string) string {
	if path == "cupel up" || path == "cupel install-service" {
		return "info"
	}
	return "warn"
}

// defaultState is the local operator's state folder where nothing names one.
const defaultState = "/var/lib/cupel"

// addShared has every command know the shared flags: one may stand before the name of
// the command that heeds it.
func (g *globals) addShared(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&g.state, "state", cmp.Or(g.env("CUPEL_STATE"), defaultState), "the local operator's state folder (CUPEL_STATE)")
	f.StringVar(&g.config, "config", g.defaultConfig(), "the owner's folder: identity, pins, vouched measurements (CUPEL_CONFIG)")
	f.StringVar(&g.provider, "provider", g.env("CUPEL_PROVIDER"), "talk to the operator of another machine: https://HOST[:PORT] of its manager (CUPEL_PROVIDER)")
	f.StringVarP(&g.output, "output", "o", "table", "how to print: table or json")
	f.StringVar(&g.logLevel, "log-level", cmp.Or(g.env("CUPEL_LOG"), "warn"), "debug, info, warn or error (CUPEL_LOG)")
	f.DurationVar(&g.wait, "wait", g.defaultWait(), "how long to try a CAS that can't be reached (CUPEL_WAIT)")

	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// settle makes of the shared flags what the command begins with: how one was given
// counts as well as what. One that the command doesn't heed is refused.
func (g *globals) settle(c *cobra.Command) error {
	given := func(name string) bool {
		f := c.Flags().Lookup(name)
		return f != nil && f.Changed && f == c.Root().PersistentFlags().Lookup(name) // and no flag of the command's own
	}

	for _, name := range allShared {
		if given(name) && !slices.Contains(sharedFlags(c.CommandPath()), name) {
			return unheeded(name, c)
		}
	}

	g.waitGiven = given("wait") || g.env("CUPEL_WAIT") != ""
	g.named = given("config") || g.env("CUPEL_CONFIG") != ""
	if err := g.check(); err != nil {
		return err
	}

	// A flag wins over the environment, and two flags are one too many.
	switch {
	case given("provider") && given("state"):
		return problem.New(problem.Invalid, problem.RuleUsage, "--provider and --state").Want("one of them").
			Fix("--state is the folder of this machine's manager, --provider the address of another's")
	case given("state"):
		g.provider = ""
	}
	return nil
}

// unheeded refuses a shared flag where it would change nothing.
func unheeded(name string, c *cobra.Command) error {
	if name == "provider" && slices.Contains(sharedFlags(c.CommandPath()), "state") {
		return problem.New(problem.Invalid, problem.RuleUsage, "--provider with a command of this machine's operator").
			Fix("leave it out, or run the command on the provider's machine")
	}
	return problem.New(problem.Invalid, problem.RuleUsage, "--%s changes nothing of '%s'", name, c.CommandPath()).
		Fix("leave it out; '%s --help' shows the flags that it has", c.CommandPath())
}

// offerHeeded has a completion offer the shared flags that the command heeds, and no
// others.
func offerHeeded(root *cobra.Command, typed []string) {
	c, _, err := root.Find(typed)
	if err != nil {
		return
	}
	for _, name := range allShared {
		root.PersistentFlags().Lookup(name).Hidden = !slices.Contains(sharedFlags(c.CommandPath()), name)
	}
}
