// Package runtimecmd is `cupeld runtime build`: it wires package build to this
// machine's mirrors, its state folder and its registry.
//
// It owns no state and trusts what build trusts: nothing. A command runs once, in one
// goroutine beside that of its registry. Read [New] and then run.
package runtimecmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/build"
	"cupel.dev/cupel/internal/operator/registry"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/internal/version"
	"cupel.dev/cupel/internal/wording"
	"cupel.dev/cupel/runtimes"
)

// options are the flags and the argument of the command.
type options struct {
	name       string
	definition string
	lock       string
	update     bool
	mirror     string
	registry   string
	state      string
	launcher   string
	output     string
}

// New returns the command `runtime` with its one sub-command.
func New(env func(string) string) *cobra.Command {
	group := &cobra.Command{
		Use:   "runtime",
		Short: "Runtime images",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}

	var o options
	c := &cobra.Command{
		Use:   "build NAME",
		Short: "Build a runtime image from Debian's packages, reproducibly",
		Long: `Build a runtime image out of a definition and Debian's signed packages. Without a
lock the newest versions are taken and the lock is written; with one, exactly its
bytes. Image and sources go into the registry; the measurement that an attested
instance of the image will have is printed.`,
		Example: "  cupeld runtime build python\n  cupeld runtime build python --update",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()

			err := run(ctx, o, c.OutOrStdout(), c.ErrOrStderr())
			if err != nil && ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		},
	}

	state := env("CUPEL_STATE")
	if state == "" {
		state = "/var/lib/cupel"
	}

	f := c.Flags()
	f.StringVar(&o.definition, "definition", "", "definition file (default: runtimes/NAME.yml if it is there, else the built-in one)")
	f.StringVar(&o.lock, "lock", "", "lock file (default: NAME.lock beside the definition file, else in the state folder)")
	f.BoolVar(&o.update, "update", false, "take the newest packages and write a new lock")
	f.StringVar(&o.mirror, "mirror", "", "root of a Debian mirror (default: as apt is configured, else "+build.DefaultMirror+")")
	f.StringVar(&o.registry, "registry", "", "registry as HOST:PORT (default: the one in the state folder)")
	f.StringVar(&o.state, "state", state, "the operator's state folder (CUPEL_STATE)")
	f.StringVar(&o.launcher, "launcher", "", "the launcher that instances will run (default: cupel-init beside this program)")
	f.StringVarP(&o.output, "output", "o", "table", "how to print: table or json")

	group.AddCommand(c)
	return group
}

// run builds the runtime, and prints what came of it.
func run(ctx context.Context, o options, out, errw io.Writer) error {
	if o.output != "table" && o.output != "json" {
		return problem.New(problem.Invalid, problem.RuleUsage, "--output %q", o.output).Want("table or json")
	}

	def, err := runtimes.Find(ctx, o.name, o.definition)
	if err != nil {
		return err
	}
	launcher, err := launcherDigest(ctx, o.launcher)
	if err != nil {
		return err
	}

	if err := os.MkdirAll(filepath.Join(o.state, "runtimes"), 0o755); err != nil {
		return problem.New(problem.Invalid, problem.RuleStateFolder, "%w", err).Fix("choose another folder with --state, or run as root")
	}
	if err := unix.Access(filepath.Join(o.state, "runtimes"), unix.W_OK); err != nil {
		return problem.New(problem.Denied, problem.RuleStateFolder, "%s can't be written: %w", o.state, err).Fix("run it as root, with sudo, or choose another folder with --state")
	}

	client, stop, err := o.openRegistry(ctx)
	if err != nil {
		return err
	}
	defer stop()

	mirrors := build.AptMirrors(ctx, def.Definition)
	if o.mirror != "" {
		mirrors = build.MirrorsBelow(o.mirror, def.Definition)
	}

	started := time.Now()
	r, err := build.Build(ctx, build.Options{
		Definition: def.Definition,
		Text:       def.Text,
		LockFile:   o.lockOf(def),
		Update:     o.update,
		Cache:      filepath.Join(o.state, "runtimes", "cache"),
		Mirrors:    mirrors,
		Client:     build.AptClient(ctx),
		Registry:   client,
		Launcher:   launcher,
		Rebuild:    rebuild.Builder{TempDir: filepath.Join(o.state, "runtimes")},
		Step: func(s string) {
			if o.output == "json" {
				_ = json.NewEncoder(wording.JSONWriter(errw)).Encode(map[string]any{"step": s, "seconds": time.Since(started).Seconds()})
				return
			}
			_, _ = fmt.Fprintf(errw, "%6.1fs  %s\n", time.Since(started).Seconds(), wording.Line(s))
		},
	})
	if err != nil {
		return err
	}

	if err := o.keepLock(o.lockOf(def)); err != nil {
		return err
	}

	return show(out, o.output, r)
}

// LocksDir is the folder, in the state folder, of the locks of what was built
// last: copies, for the manager to say which lock an image is made from. They
// are never built from, since the definition may be another one next time.
func LocksDir(state string) string { return filepath.Join(state, "runtimes", "locks") }

// keepLock keeps a copy of the lock in [LocksDir].
func (o options) keepLock(file string) error {
	lock, err := atomicfile.Read(file)
	if err == nil {
		err = os.MkdirAll(LocksDir(o.state), 0o755)
	}

	kept := filepath.Join(LocksDir(o.state), o.name+".lock")
	if info, gone := os.Lstat(kept); gone == nil && !info.Mode().IsRegular() {
		err = errors.Join(err, os.RemoveAll(kept))
	}

	if err == nil {
		err = atomicfile.Write(kept, lock, 0o644)
	}

	if err != nil {
		return problem.New(problem.Invalid, problem.RuleRuntimeLock, "keep a copy of the lock: %w", err).
			Fix("look what is at %s (ls -ld), and at the disk (dmesg)", LocksDir(o.state))
	}
	return nil
}

// show prints what was built.
func show(out io.Writer, output string, r *build.Result) error {
	if output == "json" {
		e := json.NewEncoder(wording.JSONWriter(out))
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	_, err := fmt.Fprintf(out, `runtime      %s
image        %s (%.1f MB, %d packages)
config       %s
index date   %s
lock         %s
sources      %s
measurement  %s
`, r.Runtime, r.Image, float64(r.Bytes)/1e6, r.Packages, r.Config, r.Date.Format(time.RFC3339), r.Lock, r.Artifact, r.Measurement)
	return err
}

// lockOf is where the definition's lock lies: beside its file.
func (o options) lockOf(def *runtimes.Found) string {
	switch {
	case o.lock != "":
		return o.lock
	case def.File == "":
		return filepath.Join(o.state, "runtimes", o.name+".lock")
	}
	return filepath.Join(filepath.Dir(def.File), o.name+".lock")
}

// openRegistry finds the registry: the one that was named, the one that runs on
// this state folder, or the folder itself, served for as long as this takes.
func (o options) openRegistry(ctx context.Context) (_ *registry.Client, stop func(), err error) {
	if o.registry != "" {
		return registry.NewClient(o.registry), func() {}, nil
	}

	if b, err := atomicfile.Read(filepath.Join(o.state, "manager.json")); err == nil {
		var at managerapi.Endpoint
		if json.Unmarshal(b, &at) == nil && listening(ctx, at.Registry) {
			return registry.NewClient(at.Registry), func() {}, nil
		}
	}

	ctx, cancel := context.WithCancel(ctx)
	s, err := registry.Open(ctx, filepath.Join(o.state, "registry"), slog.New(slog.DiscardHandler))
	if err != nil {
		cancel()
		return nil, nil, err
	}

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return nil, nil, fmt.Errorf("registry: %w", err)
	}

	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ctx, ln) // what it could not answer, the client reports
	}()

	return registry.NewClient(ln.Addr().String()), func() {
		cancel()
		<-done
		_ = s.Close()
	}, nil
}

// listening reports whether something answers at an address.
func listening(ctx context.Context, addr string) bool {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// launcherDigest hashes the launcher that the node of this installation runs.
func launcherDigest(ctx context.Context, file string) (ident.Digest, error) {
	if file == "" {
		self, err := os.Executable()
		if err != nil {
			return ident.Digest{}, fmt.Errorf("find the launcher: %w", err)
		}
		file = filepath.Join(filepath.Dir(self), "cupel-init")
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			if d, ok := version.Launcher(); ok {
				return d, nil
			}
		}
	}

	b, err := atomicfile.ReadNamed(ctx, file, launch.MaxLauncher)
	if err != nil {
		return ident.Digest{}, problem.New(problem.NotFound, problem.RuleLauncherMissing, "%w", err).
			Fix("build it (make build), or name it with --launcher")
	}
	return ident.Sum(b), nil
}
