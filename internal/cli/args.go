package cli

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
	want := orElse(strings.Join(names, " "), "no arguments")
	return func(c *cobra.Command, args []string) error {
		if slices.Contains(args, "") {
			return problem.New(problem.Invalid, "usage", "an empty argument").
				Want("%s", want).Fix("see '%s --help'", c.CommandPath())
		}
		if least <= len(args) && len(args) <= len(names) {
			return nil
		}
		return problem.New(problem.Invalid, "usage", "%s", problem.Count(len(args), "argument")).
			Want("%s", want).Fix("see '%s --help'", c.CommandPath())
	}
}

// wordShown quotes what was given in place of a command or flag, if it looks like
// one: people paste tokens into the wrong place of a command line, too.
func wordShown(s string) string {
	if wordForm.MatchString(s) {
		return strconv.Quote(s)
	}
	return fmt.Sprintf("(%d characters, not shown)", utf8.RuneCountInString(s))
}

var wordForm = regexp.MustCompile(`^(--?)?[a-z]+(-[a-z]+){0,3}$`)

// flagError says what is wrong with a flag, without its value.
func flagError(err error) error {
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		if short := e.GetSpecifiedShortnames(); short != "" {
			return fmt.Errorf("unknown shorthand flag -%.1s", e.GetSpecifiedName())
		}
		return fmt.Errorf("unknown flag: %s", wordShown("--"+e.GetSpecifiedName()))
	}
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return fmt.Errorf("--%s has a value that it can't have: want %s", e.GetFlag().Name, valueForm(e.GetFlag().Value.Type()))
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return fmt.Errorf("--%s needs a value", e.GetFlag().Name)
	}
	return errors.New("a flag that can't be read")
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
		p := problem.New(problem.Invalid, "usage", "unknown command %s", wordShown(args[0])).Fix("see '%s --help'", c.CommandPath())
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			p = p.Want("%s", strings.Join(near, " or "))
		}
		return p
	}
}
