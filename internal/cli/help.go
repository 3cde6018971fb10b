package cli

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpColumns is how wide a help text is where the terminal is no narrower.
const helpColumns = 80

// setHelp has a command and those below it show our help. What was asked for must be
// there: help about a word that is no command is refused.
func (g *globals) setHelp(root *cobra.Command) {
	root.SetHelpFunc(func(c *cobra.Command, _ []string) {
		if words := c.Flags().Args(); c.HasSubCommands() && len(words) > 0 {
			g.unsaid = unknownCommand(c, words[0])
			return
		}
		g.showHelp(c)
	})

	root.SetHelpCommand(&cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explain a command",
		Example: "  cupel help session create",
		RunE: func(help *cobra.Command, args []string) error {
			c, rest, err := help.Root().Find(args)
			if err != nil {
				return err
			}

			if len(rest) > 0 {
				return unknownCommand(c, rest[0])
			}

			g.showHelp(c)
			return nil
		},
		ValidArgsFunction: func(help *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			c, _, err := help.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return names(subcommands(c)), cobra.ShellCompDirectiveNoFileComp
		},
	})
}

// subcommands are the commands below one.
func subcommands(c *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(c.Commands()), func(sub *cobra.Command) bool {
		return !sub.IsAvailableCommand() && sub.Name() != "help"
	})
}

func names(commands []*cobra.Command) []string {
	var out []string
	for _, c := range commands {
		out = append(out, c.Name())
	}
	return out
}

// showHelp writes what a command does, its examples, and the commands and flags that
// it has.
func (g *globals) showHelp(c *cobra.Command) {
	c.InitDefaultHelpFlag()
	columns := min(helpColumns, g.width())
	g.printf("%s\n\nUsage:\n", paragraphs(wrapped(cmp.Or(c.Long, c.Short), columns)))

	if c.HasSubCommands() {
		g.printf("  %s COMMAND\n", c.CommandPath())
	} else {
		g.printf("  %s\n", c.UseLine())
	}

	if c.Example != "" {
		g.printf("\nExamples:\n%s\n", paragraphs(strings.TrimRight(c.Example, "\n")))
	}

	if c.HasSubCommands() {
		g.printf("\nCommands:\n")
		widest := 0
		for _, name := range names(subcommands(c)) {
			widest = max(widest, len(name))
		}

		for _, sub := range subcommands(c) {
			g.printf("  %-*s  %s\n", widest, sub.Name(), sub.Short)
		}
	}

	var own, shared pflag.FlagSet
	c.LocalNonPersistentFlags().VisitAll(own.AddFlag)
	for _, name := range sharedFlags(c.CommandPath()) {
		if !c.HasSubCommands() || !c.HasParent() {
			f := *c.Root().PersistentFlags().Lookup(name)
			if name == "log-level" && g.env("CUPEL_LOG") == "" {
				f.DefValue = defaultLogLevel(c.CommandPath())
			}
			shared.AddFlag(&f)
		}
	}
	g.showFlags("Flags", &own, columns)
	g.showFlags("Flags of many commands", &shared, columns)

	if c.HasSubCommands() {
		g.printf("\n'%s COMMAND --help' explains a command.\n", c.CommandPath())
	}
}

// flagKind is what the library calls the kind of a flag's value, before its text.
var flagKind = regexp.MustCompile(`(?m)^( +(?:-\w, )?--[a-z-]+ )(stringArray|strings|uint16|uint64)( +)`)

func (g *globals) showFlags(title string, flags *pflag.FlagSet, columns int) {
	flags.VisitAll(func(f *pflag.Flag) {
		f.DefValue = defaultShown(f)
	})

	text := flagKind.ReplaceAllStringFunc(flags.FlagUsagesWrapped(columns), func(head string) string {
		part := flagKind.FindStringSubmatch(head)
		word := map[string]string{"stringArray": "string", "strings": "string", "uint16": "int", "uint64": "int"}[part[2]]
		return part[1] + word + strings.Repeat(" ", len(part[2])-len(word)) + part[3]
	})

	if text != "" {
		g.printf("\n%s:\n%s", title, paragraphs(text))
	}
}

// zeroParts are the parts of a duration that say nothing: 10m, not 10m0s.
var zeroParts = regexp.MustCompile(`([hm])0[ms](?:0s)?$`)

// defaultShown is a flag's default as the library is to show it. What the flag's text
// says about it isn't said twice.
func defaultShown(f *pflag.Flag) string {
	kind := f.Value.Type()
	switch {
	case (kind == "int" || kind == "duration") && strings.Contains(f.Usage, "default: "):
		return "0" // which the library doesn't show
	case kind == "duration":
		return zeroParts.ReplaceAllString(f.DefValue, "$1")
	}
	return f.DefValue
}

// wrapped is a text, of paragraphs, in lines of at most so many columns.
func wrapped(text string, columns int) string {
	var out []string
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		line := ""
		for _, word := range strings.Fields(paragraph) {
			if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns {
				out = append(out, line)
				line = ""
			}
			line = strings.TrimPrefix(line+" "+word, " ")
		}

		out = append(out, line, "")
	}
	return strings.Join(out[:len(out)-1], "\n")
}
