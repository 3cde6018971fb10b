package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/daemon/runtimecmd"
	"cupel.dev/cupel/internal/operator/node/logfile"
	"cupel.dev/cupel/internal/version"
	"cupel.dev/cupel/internal/wording"
)

// cli is what all sub-commands share.
type cli struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	output   string
	logLevel slog.Level
	own      bool // --own: this process inherited nothing of its caller's
	opts     Options
}

// Caller is what a command has of whoever calls it.
type Caller struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
	Env func(name string) string
}

// Main runs the command line args, without the program's name, and returns the
// exit code. It handles signals itself, since they mean different things.
func Main(ctx context.Context, args []string, caller Caller) int {
	unix.Umask(0o022) // what is written here others may read, but for what says another mode itself
	c := &cli{
		in:  caller.In,
		out: caller.Out,
		err: caller.Err,
		env: caller.Env,
	}

	root := &cobra.Command{
		Use:           "cupeld",
		Short:         "The operator's daemon: manager, node, LAS, registry; starts the CAS",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if c.output != "table" && c.output != "json" {
				return problem.New(problem.Invalid, problem.RuleUsage, "--output %.40q", c.output).Want("table or json")
			}
			return nil
		},
	}

	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)

	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		what := err.Error()
		if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok { // whose text is the library's
			what = "--" + bad.GetFlag().Name + " has a value that it can't have"
		}
		return problem.New(problem.Invalid, problem.RuleUsage, "%s", what).Fix("see '%s --help'", c.CommandPath())
	})

	f := root.PersistentFlags()
	f.StringVar(&c.opts.State, "state", cmp.Or(c.env("CUPEL_STATE"), defaultState), "the state folder (CUPEL_STATE)")
	f.StringVarP(&c.output, "output", "o", "table", "how to print: table or json")
	f.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	f.BoolVar(&c.own, "own", false, "nothing was inherited: this process was executed by itself")
	_ = f.MarkHidden("own")

	root.AddCommand(
		c.upCommand(),
		c.downCommand(),
		c.checkCommand(),
		c.cleanupCommand(),
		c.installServiceCommand(),
		c.uninstallServiceCommand(),
		runtimecmd.New(c.env),
		logWriterCommand(),
		c.versionCommand(),
	)

	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if f := cmd.Flag("output"); f != nil {
		c.output = f.Value.String() // also of a command that has this flag itself
	}
	return c.fail(err)
}

// atWork is a [lockedError] or an [awayError].
type atWork interface {
	error
	problem() *problem.Error
}

// fail prints why a command was refused, and returns the exit code of that.
func (c *cli) fail(err error) int {
	if who, ok := errors.AsType[atWork](err); ok {
		err = who.problem()
	}
	err = besidesInterrupt(err)

	p, ok := errors.AsType[*problem.Error](err)
	code := 1
	if ok {
		code = p.Kind.ExitCode()
	}

	if interrupted(err) {
		code = 130
		if !ok || p.Rule != problem.RuleInterrupted { // where nothing was done by halves, one word says it all
			err = errors.New("interrupted")
			ok = false
			p = problem.New(problem.Unavailable, problem.RuleInterrupted, "ended by a signal, before it was done")
		}
	}

	p = wording.Problem(err, cmp.Or(p, problem.From(err)))
	p.Mend = c.inState(p.Mend)

	switch {
	case c.output == "json":
		_ = json.NewEncoder(wording.JSONWriter(c.err)).Encode(p)
	case !ok:
		_, _ = fmt.Fprintf(c.err, "cupeld: %s\n", wording.Lines(wording.Words(err)))
	default:
		wording.Print(c.err, "cupeld", p, wording.Style{})
	}

	switch {
	case ok && p.Rule == ruleRuns:
		return codeRuns
	case ok && (p.Rule == ruleKeysMissing || p.Rule == ruleKeysUnknown):
		return codeKeys
	}
	return code
}

// say prints what was done, as JSON to programs.
func (c *cli) say(v any, format string, args ...any) error {
	if c.output == "json" {
		return json.NewEncoder(wording.JSONWriter(c.out)).Encode(v)
	}
	_, err := fmt.Fprintf(c.out, format, args...)
	return err
}

// inState is a text whose commands name this installation's folder.
func (c *cli) inState(text string) string { return wording.InState(text, c.opts.State, defaultState) }

// tell shows a person how long work goes on.
func (c *cli) tell() func(string) {
	if c.output == "json" {
		return nil
	}
	return func(text string) { _, _ = fmt.Fprintln(c.err, wording.Lines(c.inState(text))) }
}

// logger is the log of a command that does its work here: warnings, with the commands in
// them as they are for this state folder.
func (c *cli) logger() *slog.Logger {
	opts := &slog.HandlerOptions{Level: max(c.logLevel, slog.LevelWarn), ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.MessageKey {
			a.Value = slog.StringValue(c.inState(a.Value.String()))
		}
		return a
	}}

	if c.output == "json" {
		return slog.New(slog.NewJSONHandler(c.err, opts))
	}
	return slog.New(slog.NewTextHandler(c.err, opts))
}

// logWriterCommand is cupel-log, for a machine on which that program was forgotten.
func logWriterCommand() *cobra.Command {
	return &cobra.Command{
		Use:    logfile.Verb + " ARG",
		Short:  "Write an instance's output into its log, where there is no cupel-log",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return logfile.Main(args[0]) },
	}
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show this build's version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return c.say(map[string]string{"version": version.Release()}, "%s\n", version.Release())
		},
	}
}
