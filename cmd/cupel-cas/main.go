// Command cupel-cas is the configuration and attestation service: a process and
// user of its own, and the binary that a TEE measures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/quota"
)

func main() {
	if err := sealProcess(); err != nil {
		fmt.Fprintf(os.Stderr, "cupel-cas: %v\n", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args, os.Stderr))
}

// run returns the exit code: the problem's, 1 for any other error, 2 for flags.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	opts, err := parseFlags(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: opts.level}))
		err = serve(ctx, opts, log)
	}
	if err == nil {
		return 0
	}

	fmt.Fprintf(stderr, "cupel-cas: %v\n", err)
	_ = opts.starter.tell(ready{Problem: problem.From(err)}) // it reads the line above otherwise
	if p, ok := errors.AsType[*problem.Error](err); ok {
		return p.Kind.ExitCode()
	}
	return 1
}

// options are the flags. Their names are an interface: cupeld starts this.
type options struct {
	state           string
	owners          string
	instances       string
	simulationRoot  string
	allowUnattested bool
	evidenceFD      int
	starter         *starter
	keepAlive       time.Duration
	quotas          quota.Limits
	maxConnections  int
	level           slog.Level
}

// parseFlags reads the flags.
func parseFlags(args []string, stderr io.Writer) (options, error) {
	o := options{starter: &starter{fd: -1}}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	fs.SetOutput(stderr)

	fs.StringVar(&o.state, "state", "", "folder of the database and its key; made if missing")
	fs.StringVar(&o.owners, "owners", "0.0.0.0:8081", "address of the owners' API")
	fs.StringVar(&o.instances, "instances", "0.0.0.0:18765", "address of the instances' API")
	fs.StringVar(&o.simulationRoot, "simulation-root", "", "PEM file of a simulated platform's root; its instances are attested, as simulated")
	fs.BoolVar(&o.allowUnattested, "allow-unattested", false, "let sessions say mode: none: their secrets go to whoever asks")
	fs.IntVar(&o.evidenceFD, "evidence-fd", -1, "inherited socket on which a LAS answers for this process; its end ends the CAS")
	fs.IntVar(&o.starter.fd, "ready-fd", -1, "inherited descriptor that gets one JSON line when the CAS serves, or why it does not")
	fs.DurationVar(&o.keepAlive, "keep-alive", 10*time.Second, "how often instances report; three missed reports end their rights")
	fs.Var(&o.quotas, "quota", "another limit of what is kept: "+quota.Usage+"; repeatable")
	fs.IntVar(&o.maxConnections, "max-connections", 0, "how many connections each API has open at once (default: by the memory that there is)")
	fs.TextVar(&o.level, "log-level", slog.LevelInfo, "debug, info, warn or error")

	if err := fs.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, problem.New(problem.Invalid, ruleFlags, "%w", err).Fix("run cupel-cas -help")
	}

	switch {
	case fs.NArg() > 0:
		return o, problem.New(problem.Invalid, ruleFlags, "unexpected argument %q", fs.Arg(0))
	case o.state == "":
		return o, problem.New(problem.Invalid, ruleFlags, "no --state").Fix("say where the CAS keeps its state")
	case o.keepAlive < time.Second:
		return o, problem.New(problem.Invalid, ruleFlags, "--keep-alive %v", o.keepAlive).Want("at least 1s")
	case o.maxConnections < 0:
		return o, problem.New(problem.Invalid, ruleFlags, "--max-connections %d", o.maxConnections).Want("a number above 0")
	}
	return o, nil
}
