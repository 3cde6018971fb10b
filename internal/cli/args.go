package cli

import (
	"cmp"
	"errors"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cupel.dev/cupel/api/problem"
)

// exactArgs wants one argument for each name; those in brackets, at the end, may
// be left out, and a last one with dots may be given again and again.
func exactArgs(names ...string) cobra.PositionalArgs {
	least, most := 0, len(names)
	for _, n := range names {
		if !strings.HasPrefix(n, "[") {
			least++
		}
		if strings.Contains(n, "...") {
			most = math.MaxInt
		}
	}

	want := cmp.Or(strings.Join(names, " "), "no arguments")
	return func(c *cobra.Command, args []string) error {
		if slices.Contains(args, "") {
			return problem.New(problem.Invalid, problem.RuleUsage, "an empty argument").
				Want("%s", want).Fix("see '%s --help'", c.CommandPath())
		}

		if least <= len(args) && len(args) <= most {
			return nil
		}

		return problem.New(problem.Invalid, problem.RuleUsage, "%s", problem.Count(len(args), "argument")).
			Want("%s", want).Fix("see '%s --help'", c.CommandPath())
	}
}

// wordShown quotes what was given in place of a command or flag, if it looks like
// one: people paste tokens into the wrong place of a command line, too.
func wordShown(s string) string {
	if wordForm.MatchString(s) {
		return strconv.Quote(s)
	}
	return "(" + problem.Count(utf8.RuneCountInString(s), "character") + ", not shown)"
}

var wordForm = regexp.MustCompile(`^(--?)?[a-z]+(-[a-z]+){0,3}$`)

// flagError says what is wrong with a flag, without its value.
func flagError(c *cobra.Command, err error) error {
	usage := func(format string, args ...any) error {
		return problem.New(problem.Invalid, problem.RuleUsage, format, args...).Fix("see '%s --help'", c.CommandPath())
	}

	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		return unknownFlag(c, e)
	}

	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		form := valueForm(e.GetFlag().Value.Type())
		if errors.Is(err, strconv.ErrRange) && e.GetFlag().Value.Type() == "int" {
			form = "a whole number, and one that isn't so large"
		}
		return usage("--%s has a value that it can't have: want %s", e.GetFlag().Name, form)
	}

	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return usage("--%s needs a value", e.GetFlag().Name)
	}

	return usage("a flag that can't be read")
}

// unknownFlag says of a flag that a command doesn't have which one is near, or why it
// has none of that name.
func unknownFlag(c *cobra.Command, e *pflag.NotExistError) error {
	if words := c.Flags().Args(); c.HasSubCommands() && len(words) > 0 {
		return unknownCommand(c, words[0]) // whose flag it may be
	}

	name := e.GetSpecifiedName()
	p := problem.New(problem.Invalid, problem.RuleUsage, "unknown flag: %s", wordShown("--"+name))
	if short := e.GetSpecifiedShortnames(); short != "" {
		p = problem.New(problem.Invalid, problem.RuleUsage, "unknown shorthand flag -%.1s", name)
		name = strings.TrimLeft(short, "-") // one dash too few, perhaps
	}

	var known []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, f.Name)
		}
	})
	return p.Fix("%s", didYouMean("--", nearName(name, known), c))
}

// didYouMean leads to the name that is near (empty: none), and to a command's help.
func didYouMean(dashes, near string, c *cobra.Command) string {
	if near == "" {
		return "see '" + c.CommandPath() + " --help'"
	}
	return "did you mean " + dashes + near + "? See '" + c.CommandPath() + " --help'"
}

// nearName is the known name that somebody most likely meant by another, which may be
// its beginning; empty if there is none.
func nearName(name string, known []string) string {
	if near := problem.Nearest(name, known); near != "" {
		return near
	}

	var longer []string
	for _, k := range known {
		if len(name) > 1 && strings.HasPrefix(k, strings.ToLower(name)) {
			longer = append(longer, k)
		}
	}

	if len(longer) != 1 {
		return ""
	}
	return longer[0]
}

// goesWith refuses a flag that changes nothing where another one is missing. That one is
// named as it would be written.
func goesWith(c *cobra.Command, flag, other string, there bool) error {
	if there || !c.Flags().Changed(flag) {
		return nil
	}
	return problem.New(problem.Invalid, problem.RuleUsage, "--%s changes nothing without %s", flag, other).
		Fix("leave it out, or give %s too; see '%s --help'", other, c.CommandPath())
}

// hostPort refuses what is no HOST:PORT.
func hostPort(flag, text string) error {
	host, port, err := net.SplitHostPort(text)
	number, bad := strconv.ParseUint(port, 10, 16)
	if err == nil && host != "" && bad == nil && number != 0 {
		return nil
	}

	return problem.New(problem.Invalid, problem.RuleUsage, "--%s %.80q", flag, text).
		Want("HOST:PORT, with a port from 1 to 65535").Fix("as in --%s app.example.org:443", flag)
}

// durationForm is how durations are written.
const durationForm = "a duration such as 30s, 10m or 24h"

// valueForm says in words what a flag of a type takes.
func valueForm(kind string) string {
	switch kind {
	case "duration":
		return durationForm
	case "int":
		return "a whole number"
	case "uint16":
		return "a whole number from 0 to 65535"
	case "uint64":
		return "a whole number from 0 up"
	case "bool":
		return "true or false, after a = sign"
	}
	return "a " + kind
}

// groupsRefuse has every command that only holds others refuse a name that it
// doesn't know; without one it shows its help.
func (g *globals) groupsRefuse(c *cobra.Command) {
	for _, sub := range c.Commands() {
		g.groupsRefuse(sub)
	}

	if !c.HasSubCommands() {
		return
	}

	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case len(args) > 0:
			return unknownCommand(c, args[0])
		case g.json():
			return problem.New(problem.Invalid, problem.RuleUsage, "no command, of which -o json could print the answer").
				Want("%s COMMAND", c.CommandPath()).Fix("see '%s --help'", c.CommandPath())
		}
		return c.Help()
	}
}

// unknownCommand refuses a word in the place of a command that is none.
func unknownCommand(c *cobra.Command, word string) error {
	p := problem.New(problem.Invalid, problem.RuleUsage, "unknown command %s", wordShown(word))
	near := nearName(word, names(subcommands(c)))
	if near != "" {
		p = p.Want("%s", near)
	}

	return p.Fix("%s", didYouMean("", near, c))
}
