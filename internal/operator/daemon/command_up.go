package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/daemon/inherit"
	"cupel.dev/cupel/internal/upflags"
)

func (c *cli) upCommand() *cobra.Command {
	var start upflags.Start
	var detachedFD, lockFD int
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run manager, node, LAS, registry and CAS on this machine",
		Long: `Run everything that an operator needs on this machine, with its state in one folder.
Ctrl-C stops the apps too and keeps what is desired; SIGTERM leaves apps running,
and the next up adopts them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.inheritNothing(cmd); err != nil {
				return err
			}
			if err := c.given(cmd); err != nil {
				return err
			}
			if start.Detach {
				return c.detach(cmd)
			}
			c.opts.WaitClock = start.WaitClock
			return c.up(cmd.Context(), detachedFD, lockFD)
		},
	}

	f := cmd.Flags()
	start.Declare(f)

	// Hidden: what a start hands to the process that it starts, and a unit to its own.
	f.IntVar(&detachedFD, "detached-fd", 0, "descriptor on which a detached start tells how it went")
	_ = f.MarkHidden("detached-fd")
	f.IntVar(&lockFD, "lock-fd", 0, "descriptor by which a detached start holds the state folder's lock")
	_ = f.MarkHidden("lock-fd")
	f.StringArrayVar(&c.opts.repaired, "repaired", nil, "what a detached start put aside before")
	_ = f.MarkHidden("repaired")
	f.BoolVar(&c.opts.Existing, "existing", false, "refuse a state folder without an installation")
	_ = f.MarkHidden("existing")

	c.runFlags(f)
	return cmd
}

// runFlags are those of up that say how an installation runs.
func (c *cli) runFlags(f *pflag.FlagSet) {
	c.opts.Declare(f)
	f.StringVar(&c.opts.Launcher, "launcher", "", "the launcher (default: cupel-init beside this program)")
	f.StringVar(&c.opts.CAS, "cas", "", "the CAS's binary (default: cupel-cas beside this program)")
}

// given notes the flags of a start, which then listens where the last one did, as far
// as they don't say.
func (c *cli) given(cmd *cobra.Command) error {
	l, err := newLayout(c.opts.State)
	if err != nil {
		return err
	}

	c.opts.Given = runFlagsGiven(cmd.Flags())
	l.settle(&c.opts)
	return nil
}

// inheritNothing executes this command again, in a process that has nothing of its
// caller's. Only the second time it returns without an error.
func (c *cli) inheritNothing(cmd *cobra.Command) error {
	if c.own || os.Geteuid() != 0 { // without root the command itself says what is missing
		return nil
	}

	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	args, err := c.arguments(cmd)
	if err != nil {
		return err
	}

	return inherit.Exec(self, append([]string{os.Args[0], cmd.Name(), "--own", "--output", c.output}, args...), os.Environ())
}

// arguments are the flags that a command was given, for the same command in another
// folder: files have their absolute names.
func (c *cli) arguments(cmd *cobra.Command) ([]string, error) {
	if err := refuseNamedAll(c.opts.DeployKeys); err != nil {
		return nil, err
	}

	for _, file := range []*string{&c.opts.State, &c.opts.Launcher, &c.opts.CAS, &c.opts.DeployKeys, &c.opts.ManagerCert, &c.opts.ManagerKey} {
		if *file == "" || file == &c.opts.DeployKeys && *file == everybody {
			continue
		}
		abs, err := filepath.Abs(*file)
		if err != nil {
			return nil, problem.New(problem.Invalid, problem.RuleStateFolder, "%w", err)
		}
		*file = abs
	}

	args := []string{"--state", c.opts.State, "--log-level", c.logLevel.String()}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if cmd.LocalNonPersistentFlags().Lookup(f.Name) != nil {
			args = append(args, "--"+f.Name+"="+f.Value.String())
		}
	})
	return args, nil
}

// detach starts the same command again, without --detach.
func (c *cli) detach(cmd *cobra.Command) error {
	if err := checkOptions(c.opts); err != nil { // before anything is touched
		return err
	}

	args, err := c.arguments(cmd)
	if err != nil {
		return err
	}
	args = slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, "--detach=") })

	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := Detach(ctx, c.opts.State, append([]string{"up", "--own"}, args...), c.tell())
	if err != nil {
		return err
	}

	if c.output == "json" {
		return c.printServing(s.Serving)
	}
	_, _ = fmt.Fprintf(c.out, "cupeld runs (process %d)\n", s.Endpoint.PID)
	Show(c.out, s.State, s.Serving)
	return nil
}

// detachedProblem is what who started a cupeld is told of its end before it served.
func detachedProblem(err error) *problem.Error {
	if interrupted(err) {
		return problem.New(problem.Unavailable, ruleCupeldEnded, "cupeld was told to end before it served: by a 'cupel down' that came meanwhile, or a signal").
			Fix("start it again: cupel up")
	}
	return problem.From(besidesInterrupt(err))
}

// up runs in the foreground, or as what detach started.
func (c *cli) up(ctx context.Context, detachedFD, lockFD int) (err error) {
	ctx, stop := untilSignal(ctx)
	defer stop()

	if lockFD > 0 {
		if c.opts.lock, err = heldLock(lockFD); err != nil {
			return err
		}
	}

	tell := c.tellServing
	w := c.err
	if detachedFD > 0 {
		unix.CloseOnExec(detachedFD)
		pipe := os.NewFile(uintptr(detachedFD), "detached")
		defer func() {
			if err != nil {
				_ = json.NewEncoder(pipe).Encode(outcome{Problem: detachedProblem(err)})
			}
			_ = pipe.Close()
		}()
		tell = func(s Serving) error {
			_ = json.NewEncoder(pipe).Encode(outcome{Serving: &s}) // who started it may wait no longer
			return pipe.Close()
		}

		// One that can't be opened is tried again, and Up says so.
		c.opts.log, _ = openRotating(filepath.Join(c.opts.State, "log", "cupeld.log"), maxLog)
		defer func() { _ = c.opts.log.Close() }()
		w = c.opts.log
	}

	log := slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: c.logLevel}))
	service := os.Getenv("NOTIFY_SOCKET")
	_ = os.Unsetenv("NOTIFY_SOCKET") // it is ours, not containerd's
	c.opts.OwnGroup = service == ""  // where a service manager keeps a group for us, we stay

	err = Up(ctx, c.opts, log, func(s Serving) error { return errors.Join(tell(s), notifyReady(service)) })
	if err != nil && detachedFD > 0 {
		log.Error("cupeld ended", "error", err)
	}
	return err
}

// untilSignal is a context that ends with a signal: SIGINT stops the apps too, SIGTERM
// leaves them. A closed terminal is no reason to end. Signals that are caught, not
// ignored, are what they are by default in the programs that are started from here.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	closed := make(chan os.Signal, 1)
	signal.Notify(closed, syscall.SIGHUP, syscall.SIGPIPE)

	go func() {
		for s := range signals {
			if s == os.Interrupt {
				cancel(errStop)
			} else {
				cancel(nil)
			}
		}
	}()

	return ctx, func() {
		signal.Stop(signals)
		signal.Stop(closed)
		cancel(nil)
	}
}

// tellServing says in the foreground that everything serves.
func (c *cli) tellServing(s Serving) error {
	if c.output == "json" {
		return c.printServing(s)
	}
	Show(c.out, c.opts.State, s)
	_, _ = fmt.Fprintln(c.out, "\nReady. Ctrl-C stops everything; SIGTERM leaves the apps running.")
	return nil
}
