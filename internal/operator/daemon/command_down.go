package daemon

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cupel.dev/cupel/internal/trusted/problem"
)

func (c *cli) downCommand() *cobra.Command {
	var atShutdown bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop apps and daemons; the next up starts the apps again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.inheritNothing(cmd); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if atShutdown && !shuttingDown(ctx) {
				return nil // the service is restarted or stopped: apps go on
			}
			c.opts.tell = c.tell()
			if err := Down(ctx, c.opts, c.logger()); err != nil {
				return err
			}
			_, _ = fmt.Fprintf(c.out, "stopped; what is desired stays in %s\n", c.opts.State)
			return nil
		},
	}
	cmd.Flags().BoolVar(&atShutdown, "at-shutdown", false, "only if systemd takes the machine down")
	_ = cmd.Flags().MarkHidden("at-shutdown")
	cmd.Flags().BoolVar(&c.opts.Force, "force", false, "end apps also where they can't store what they wrote")
	return cmd
}

func (c *cli) cleanupCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Stop everything and remove it, the state folder included",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.inheritNothing(cmd); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if !yes {
				if err := c.confirm(ctx); err != nil {
					return err
				}
			}
			c.opts.tell = c.tell()
			mounted, err := Cleanup(ctx, c.opts, c.logger())
			if err != nil {
				return err
			}
			if len(mounted) > 0 {
				_, _ = fmt.Fprintf(c.out, "removed: nothing is left in %s, where others' file systems stay mounted: %s\n", c.opts.State, strings.Join(mounted, ", "))
				return nil
			}
			_, _ = fmt.Fprintf(c.out, "removed: nothing of %s is left\n", c.opts.State)
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask")
	return cmd
}

// confirm asks a person; without one the answer is no.
func (c *cli) confirm(ctx context.Context) error {
	no := problem.New(problem.Invalid, "not_confirmed", "this deletes %s with all sessions, secrets, volumes and images in it", c.opts.State).
		Fix("say --yes")
	f, ok := c.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return no
	}
	_, _ = fmt.Fprintf(c.err, "This deletes %s with all sessions, secrets, volumes and images in it. Type yes: ", c.opts.State)
	type answer struct {
		line string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(c.in).ReadString('\n')
		answered <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		_, _ = fmt.Fprintln(c.err)
		return ctx.Err()
	case a := <-answered:
		if a.err != nil || strings.TrimSpace(a.line) != "yes" {
			return no
		}
		return nil
	}
}
