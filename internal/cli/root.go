package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/wording"
)

// globals is what every command may use: the process's surroundings and the
// flags that all commands share.
type globals struct {
	in       io.Reader
	lines    *bufio.Reader // of in, once somebody was asked
	out, err io.Writer
	env      func(string) string
	now      func() time.Time

	state    string // --state, CUPEL_STATE: the local operator's folder
	config   string // --config, CUPEL_CONFIG: the owner's folder
	provider string // --provider, CUPEL_PROVIDER: another machine's manager
	output   string // -o: "table" or "json"
	logLevel string
	wait     time.Duration // how long a server that does not answer is waited for

	named      bool  // the owner's folder was named by flag or environment, not derived
	toldFolder bool  // it was said that the owner's folder is another user's
	waitGiven  bool  // by --wait or CUPEL_WAIT
	completing bool  // a completion is under way, which makes no key
	unsaid     error // why something that was to be shown wasn't
}

// Process is what the command reads, writes and finds around it.
type Process struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
	Env func(string) string
}

// Main runs the command line args (without the program's name) and returns the
// exit code.
func Main(ctx context.Context, args []string, p Process) int {
	g := &globals{
		in:  p.In,
		out: p.Out,
		err: p.Err,
		env: p.Env,
		now: time.Now,
	}
	defer noteClosedPipe()()

	root := newRootCommand(g)
	root.SetArgs(args)
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)

	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = g.unsaid
	}
	if err == nil {
		return 0
	}

	if asksForJSON(args) {
		g.output = "json" // also where the flags before it were wrong
	}
	return g.fail(g.meant(cmd.Flags().Args(), err))
}

// meant adds to a refused name of a session the one that was most likely meant.
func (g *globals) meant(args []string, err error) error {
	p, ok := errors.AsType[*problem.Error](err)
	if !ok || p.Rule != problem.RuleSessionUnknown || len(args) == 0 {
		return err
	}

	names := g.sessions(context.Background(), nil)
	near := problem.Nearest(args[0], names)
	if near == "" || near == args[0] {
		return err
	}

	with := *p
	return with.Fix("did you mean %s? You created that one here; else: %s", near, p.Mend)
}

// asksForJSON reports whether the arguments say -o json, in whatever form.
func asksForJSON(args []string) bool {
	for i, a := range args {
		if a == "--" {
			return false
		}

		before := ""
		if i > 0 {
			before = args[i-1]
		}

		if a == "-ojson" || a == "-o=json" || a == "--output=json" || a == "json" && (before == "-o" || before == "--output") {
			return true
		}
	}
	return false
}

func newRootCommand(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use:   "cupel",
		Short: "Run containers that must prove what they are before they are trusted",
		Long: `Cupel runs containers that must prove what they are before they are trusted with
anything. The owner of an app writes a session: which measured code may have
which secrets. A CAS attests every running copy and only then releases keys. The
operator, who is trusted with nothing, runs the copies.`,
		Example: `  cupel up --detach                       # operator: everything on this machine
  cupel template --runtime python --command "python3 /home/client-app/repo/client-app.py"
  cupel deploy my-session --instances 3 --memory 256M --port 8080
  cupel ps`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(c *cobra.Command, args []string) error {
			if c.Name() == cobra.ShellCompRequestCmd || c.Name() == cobra.ShellCompNoDescRequestCmd {
				offerHeeded(c.Root(), args[:max(0, len(args)-1)])
			}
			if err := g.settle(c); err != nil {
				return err
			}
			if err := emptyFlag(c); err != nil {
				return err
			}
			return negativeTime(c)
		},
	}

	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		newAuditCommand(g),
		newCASCommand(g),
		newCheckCommand(g),
		newCleanupCommand(g),
		newCompletionCommand(g),
		newDeployCommand(g),
		newDownCommand(g),
		newEventsCommand(g),
		newInfoCommand(g),
		newInstallServiceCommand(g),
		newLogsCommand(g),
		newProviderCommand(g),
		newPsCommand(g),
		newRmCommand(g),
		newRuntimeCommand(g),
		newSessionCommand(g),
		newTemplateCommand(g),
		newUninstallServiceCommand(g),
		newUpCommand(g),
		newVerifyCommand(g),
		newVersionCommand(g),
		newVolumeCommand(g),
	)

	g.addShared(root)
	g.groupsRefuse(root)
	g.setHelp(root)
	return root
}

func (g *globals) defaultWait() time.Duration {
	if d, err := time.ParseDuration(g.env("CUPEL_WAIT")); err == nil {
		return d
	}
	return 15 * time.Second // a CAS that restarts is back by then
}

func (g *globals) check() error {
	if g.output != "table" && g.output != "json" {
		return problem.New(problem.Invalid, problem.RuleUsage, "--output %q", g.output).Want("table or json")
	}

	var l slog.Level
	if err := l.UnmarshalText([]byte(g.logLevel)); err != nil {
		return problem.New(problem.Invalid, problem.RuleUsage, "--log-level %q", g.logLevel).Want("debug, info, warn or error")
	}

	if text := g.env("CUPEL_WAIT"); text != "" {
		if d, err := time.ParseDuration(text); err != nil || d < 0 {
			return problem.New(problem.Invalid, problem.RuleUsage, "CUPEL_WAIT %.40q", text).Want(durationForm)
		}
	}

	return nil
}

// negativeTime refuses a time below zero, as a script may compute it: it asks for nothing.
func negativeTime(c *cobra.Command) (err error) {
	c.Flags().Visit(func(f *pflag.Flag) {
		if f.Value.Type() == "duration" && strings.HasPrefix(f.Value.String(), "-") {
			err = problem.New(problem.Invalid, problem.RuleUsage, "--%s %s", f.Name, f.Value).Want("%s, not below 0", durationForm).
				Fix("give the time from now on, or leave the flag out; see '%s --help'", c.CommandPath())
		}
	})
	return err
}

// emptyFlag refuses a flag that was given without a value, as by a script whose
// variable is empty: it would be as if the flag had not been given.
func emptyFlag(c *cobra.Command) error {
	var empty *pflag.Flag
	c.Flags().Visit(func(f *pflag.Flag) {
		given := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			given = list.GetSlice()
		}

		if len(given) == 0 || slices.Contains(given, "") {
			empty = f
		}
	})

	if empty == nil {
		return nil
	}
	return problem.New(problem.Invalid, problem.RuleUsage, "--%s has an empty value", empty.Name).Fix("give one, or leave the flag out; see '%s --help'", c.CommandPath())
}

func (g *globals) json() bool { return g.output == "json" }

func (g *globals) logger() *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(g.logLevel)) // check() refused anything else
	opts := &slog.HandlerOptions{Level: l}

	if g.json() {
		return slog.New(slog.NewJSONHandler(wording.JSONWriter(g.err), opts))
	}
	return slog.New(slog.NewTextHandler(g.err, opts))
}

// printJSON writes v as indented JSON: the whole answer of a -o json command.
func (g *globals) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return g.write(string(wording.JSON(b)) + "\n")
}

// exitError carries another process's exit code through to ours, silently.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// codedError ends the command with an exit code of its own, for scripts that act on
// just this. It is made where a command finds something out by itself: what a server
// calls its refusals decides no code.
type codedError struct {
	code  int
	cause error
}

func (e codedError) Error() string { return e.cause.Error() }
func (e codedError) Unwrap() error { return e.cause }

// Exit codes of single findings.
const (
	codeAppPlain = 9  // rule app_plain
	codeAppEnded = 11 // rules app_ended and exited, of the deployment that is followed
)

func exitCode(err error) int {
	if e, ok := errors.AsType[codedError](err); ok {
		return e.code
	}
	return problem.KindOf(err).ExitCode()
}

// What shells give programs that SIGINT or SIGPIPE ended.
const (
	interruptedCode = 130
	closedPipeCode  = 141
)

// noteClosedPipe has a reader that went away (head, a pager) be an error of writing, and
// not the end of the process: what is under way comes to its end. Caught signals, other
// than ignored ones, are handed on to no other program.
func noteClosedPipe() (stop func()) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGPIPE)
	return func() { signal.Stop(caught) }
}

// fail shows err where the caller looks for it and returns the exit code: the
// one place where errors become either.
func (g *globals) fail(err error) int {
	if e, ok := errors.AsType[exitError](err); ok {
		return e.code
	}

	code := 1
	p, ok := errors.AsType[*problem.Error](err)
	if !ok {
		err = diskerror.Explain(err, ".", "that file")
		p, ok = errors.AsType[*problem.Error](err)
	}

	if ok && p.Rule == ruleOutput && errors.Is(err, syscall.EPIPE) {
		return closedPipeCode // who doesn't read on knows
	}

	switch {
	case errors.Is(err, context.Canceled):
		code = interruptedCode
		p = problem.New(problem.Unavailable, problem.RuleInterrupted, "ended by a signal, before it was done")
	case ok:
		code = exitCode(err)
	default:
		p = problem.From(err)
	}

	p = wording.Problem(err, p)
	p.Mend = g.inState(p.Mend)

	switch {
	case g.json():
		_ = json.NewEncoder(wording.JSONWriter(g.err)).Encode(p)
		return code
	case code == interruptedCode:
		_, _ = fmt.Fprintln(g.err, "cupel: interrupted")
		return code
	case !ok:
		_, _ = fmt.Fprintf(g.err, "cupel: %s\n", g.writable(wording.Lines(p.Actual)))
		return code
	}

	wording.Print(g.err, "cupel", p, wording.Style{
		Rule:     func(name string) string { return g.paint(g.err, red, name) },
		Writable: g.writable,
	})
	return code
}

// sibling returns the path of another binary of this build: beside our own, or
// else its bare name, for PATH.
func sibling(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}

	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return name
	}
	return path
}
