package daemon

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/ask"
)

// alone runs what a command does in a process that inherited nothing, until it is done
// or a signal ends it.
func (c *cli) alone(cmd *cobra.Command, do func(ctx context.Context) error) error {
	if err := c.inheritNothing(cmd); err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c.opts.tell = c.tell()

	return do(ctx)
}

// byHalves does what a signal may end in the middle. It says at once that the signal was
// heard, and in the end what is left, and how to go on.
func (c *cli) byHalves(ctx context.Context, left string, do func() error) error {
	hear := sync.OnceFunc(func() {
		if tell := c.tell(); tell != nil {
			tell("interrupted: what is under way comes to its end first")
		}
	})

	forget := context.AfterFunc(ctx, hear)
	err := do()
	forget()
	if err == nil || ctx.Err() == nil {
		return err
	}

	hear() // do may have seen the signal before
	if real := uncancelled(err); real != nil {
		return real
	}
	p := problem.New(problem.Unavailable, problem.RuleInterrupted, "ended by a signal, before it was done").Fix("%s", left)
	p.Cause = context.Canceled
	return p
}

func (c *cli) downCommand() *cobra.Command {
	var atShutdown bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop apps and daemons; the next up starts the apps again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.alone(cmd, func(ctx context.Context) error {
				if atShutdown && !shuttingDown(ctx) {
					return nil // the service is restarted or stopped: apps go on
				}

				const left = "a cupeld that runs was told to stop and goes on with it; 'cupel down' again stops what else is left, 'cupel up' starts all of it again"
				var s Stopped
				err := c.byHalves(ctx, left, func() (err error) {
					s, err = Down(ctx, c.opts, c.logger())
					return err
				})
				if err != nil {
					return err
				}
				return c.say(s, "%s\n", stoppedText(c.opts.State, s))
			})
		},
	}

	cmd.Flags().BoolVar(&atShutdown, "at-shutdown", false, "only if systemd takes the machine down")
	_ = cmd.Flags().MarkHidden("at-shutdown")
	cmd.Flags().BoolVar(&c.opts.Force, "force", false, "end apps also where they can't store what they wrote")
	return cmd
}

// stoppedText tells a person what was stopped.
func stoppedText(state string, s Stopped) string {
	where := "there is no " + state
	switch l, err := newLayout(state); {
	case err == nil && l.used():
		where = "what is in " + state + " is another folder"
	case exists(state):
		where = "nothing in " + state + " is Cupel's"
	}

	switch {
	case s.State != "":
		return "stopped; what is desired stays in " + state
	case len(s.Ended) > 0:
		return where + ", and what still ran of it was ended: " + short(s.Ended)
	}
	return "nothing to stop: " + where
}

func (c *cli) cleanupCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Stop everything and remove it, the state folder included",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.alone(cmd, func(ctx context.Context) error { return c.cleanup(ctx, yes) })
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask")
	return cmd
}

// cleaned is the answer of `cleanup -o json`.
type cleaned struct {
	Removed string   `json:"removed"`
	Mounted []string `json:"mounted"` // others' file systems, which stay
}

// cleanup is the command, once it inherited nothing.
func (c *cli) cleanup(ctx context.Context, yes bool) error {
	if !yes {
		if err := c.confirm(ctx); err != nil {
			return err
		}
	}

	var mounted []string
	left := fmt.Sprintf("a part of %s may be removed already: 'cupel cleanup' again removes the rest", c.opts.State)
	err := c.byHalves(ctx, left, func() (err error) {
		mounted, err = Cleanup(ctx, c.opts, c.logger())
		return err
	})
	if err != nil {
		return err
	}

	reply := cleaned{c.opts.State, append([]string{}, mounted...)}
	if len(mounted) > 0 {
		return c.say(reply, "removed: nothing is left in %s, where others' file systems stay mounted: %s\n", c.opts.State, strings.Join(mounted, ", "))
	}
	return c.say(reply, "removed: nothing of %s is left\n", c.opts.State)
}

// confirm asks a person; without one the answer is no.
func (c *cli) confirm(ctx context.Context) error {
	what := c.opts.State + " with all sessions, secrets, volumes and images in it"
	if _, ok := ask.Terminal(c.in); !ok {
		return problem.New(problem.Invalid, problem.RuleNotConfirmed, "this deletes %s", what).Fix("say --yes")
	}

	line, err := ask.Line(ctx, bufio.NewReader(c.in), c.err,
		"This deletes "+what+". Type yes: ")
	if ctx.Err() != nil {
		return err
	}

	if err != nil || strings.TrimSpace(line) != "yes" {
		return problem.New(problem.Invalid, problem.RuleNotConfirmed, "the answer is not yes").Fix("nothing was removed; run it again, and type yes, to delete %s", what)
	}
	return nil
}
