// Command demo walks the whole road once, with everybody's commands as they
// would type them: a private git server, an operator, an owner without root,
// and a user of the app. Each has a folder of its own, below /var/lib/cupel-demo.
// Every command is shown before it runs, so that the output is a tutorial.
//
//	demo up      walk the road; run again, it updates the app
//	demo down    stop everything and leave nothing
//
// It needs root, as the operator does, and the binaries of `make build`.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the command; it returns the exit code.
func run(ctx context.Context, args []string, out, errw io.Writer) int {
	var d demo
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(errw)
	fs.StringVar(&d.dir, "dir", "/var/lib/cupel-demo", "folder of the demo's parties")
	fs.StringVar(&d.bin, "bin", "bin", "folder of cupel, cupeld, cupel-cas, cupel-init, cupel-log and gitserver")
	fs.StringVar(&d.app, "app", "examples/python-app", "folder of the app")

	if err := fs.Parse(args); err != nil {
		return 2
	}

	d.out = out

	err := fmt.Errorf("usage: demo [flags] up|down")
	switch {
	case os.Geteuid() != 0:
		err = fmt.Errorf("the operator's side needs root: run it as root")
	case fs.NArg() == 1 && fs.Arg(0) == "up":
		if err = d.prepare(); err == nil {
			err = d.up(ctx)
		}
		if err != nil {
			err = fmt.Errorf("%w\n\nWhat came up so far goes on; 'make demo-down' takes it away", err)
		}
	case fs.NArg() == 1 && fs.Arg(0) == "down":
		err = d.down(ctx)
	}

	if err != nil {
		_, _ = fmt.Fprintf(errw, "demo: %v\n", err)
		return 1
	}

	return 0
}

// demo is the stage.
type demo struct {
	dir string // of the parties
	bin string // where make put the binaries
	app string
	out io.Writer

	git, operator, owner, user, stranger *party
}

// What the demo deploys.
const (
	session = "demo"
	command = "python3 /home/client-app/repo/client-app.py"
	// hostName is how instances call the machine that they run on.
	hostName = "host.cupel.internal"
)

// prepare makes the folders and gives every party the programs it runs.
func (d *demo) prepare() error {
	bin := filepath.Join(d.dir, "bin")
	for _, dir := range []string{d.dir, bin} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}

	for _, name := range []string{"cupel", "cupeld", "cupel-cas", "cupel-init", "cupel-log", "gitserver"} {
		if err := install(filepath.Join(d.bin, name), filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("%w: run 'make build'", err)
		}
	}

	var err error
	for _, p := range []struct {
		to   **party
		name string
		uid  int
	}{
		{&d.git, "git", 0},
		{&d.operator, "operator", 0},
		{&d.owner, "owner", nobody},
		{&d.user, "user", nobody},
		{&d.stranger, "stranger", nobody},
	} {
		if *p.to, err = d.party(p.name, p.uid); err != nil {
			return err
		}
	}

	return nil
}

// install copies a program unless the same one is there. The new file takes the
// old one's place in one step: the old may be running.
func install(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}

	if old, err := os.ReadFile(to); err == nil && string(old) == string(data) {
		return nil
	}

	if err := os.WriteFile(to+".new", data, 0o755); err != nil {
		return err
	}

	return os.Rename(to+".new", to)
}
