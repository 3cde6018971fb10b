package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cupel.dev/cupel/api/problem"
)

// execSibling becomes another binary of this build: signals, terminal and exit
// code are its own.
func (g *globals) execSibling(name string, args ...string) error {
	path, err := exec.LookPath(sibling(name))
	if err == nil {
		err = syscall.Exec(path, append([]string{name}, args...), os.Environ())
	}

	return problem.New(problem.NotFound, ruleProgramMissing, "%s is neither beside this program nor in PATH: %w", name, err).
		Fix("build it (make build) or install it beside cupel")
}

// forwarded returns the command line of cupeld for one of our commands, with
// every flag that was given, and a log level of the environment.
func (g *globals) forwarded(c *cobra.Command) []string {
	args := []string{c.Name(), "--state", g.state, "--output", g.output}
	if c.Flags().Changed("log-level") || g.env("CUPEL_LOG") != "" {
		args = append(args, "--log-level", g.logLevel)
	}
	return append(args, ownFlags(c)...)
}

// ownFlags are those that were given and that no other command shares, as cupeld
// takes them.
func ownFlags(c *cobra.Command) []string {
	var args []string
	c.Flags().Visit(func(f *pflag.Flag) {
		if slices.Contains(allShared, f.Name) {
			return
		}

		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}

		for _, v := range values {
			args = append(args, "--"+f.Name+"="+v)
		}
	})
	return args
}

// watched says whether a person watches the output as it comes.
func (g *globals) watched() bool { return isTerminal(g.out) }

// age writes how long ago t was, in one unit.
func (g *globals) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}

	d := max(0, g.now().Sub(t))
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// runSibling runs another binary of this build in the foreground and becomes
// its exit code. An interrupt reaches it as SIGTERM, so that it can clean up.
func (g *globals) runSibling(ctx context.Context, name string, args ...string) error {
	c := exec.CommandContext(ctx, sibling(name), args...)
	c.Stdin, c.Stdout, c.Stderr = g.in, g.out, g.err
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 30 * time.Second

	err := c.Run()
	e, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case ended && e.ExitCode() > 0:
		return exitError{e.ExitCode()}
	case ended && ctx.Err() != nil: // the signal that ended this one ended it, too
		return ctx.Err()
	}

	if errors.Is(err, exec.ErrNotFound) {
		return problem.New(problem.NotFound, ruleProgramMissing, "%s is neither beside this program nor in PATH", name).
			Fix("build it (make build) or install it beside cupel")
	}

	return err
}
