package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/owner"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/trusted/rebuild"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/version"
	"cupel.dev/cupel/runtimes"
)

func newRuntimeCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "runtime",
		Short: "Runtime images: build them (operator), measure and vouch for them (owner)",
		Args:  exactArgs(),
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newRuntimeBuildCommand(g), newRuntimeMeasureCommand(g), newRuntimeShowCommand(g), newRuntimeListCommand(g))
	return c
}

func newRuntimeBuildCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "build NAME",
		Short: "Build a runtime image from Debian's packages, reproducibly",
		Long: `Build a runtime image out of a definition and Debian's signed packages, and store
it with its sources in the registry. Without a lock the newest versions are taken
and the lock is written; with one, exactly its bytes. Runs cupeld.`,
		Example: "  cupel runtime build python\n  cupel runtime build python --update",
		Args:    exactArgs("NAME"),

		ValidArgsFunction: g.completeRuntimes,
		RunE: func(c *cobra.Command, args []string) error {
			call := []string{"runtime", "build", args[0], "--state", g.state, "--output", g.output}
			own := c.LocalNonPersistentFlags()
			c.Flags().Visit(func(f *pflag.Flag) {
				if own.Lookup(f.Name) != nil {
					call = append(call, "--"+f.Name+"="+f.Value.String())
				}
			})
			return g.runSibling(c.Context(), "cupeld", call...)
		},
	}
	f := c.Flags()
	f.String("definition", "", "definition file (default: runtimes/NAME.yml if it is there, else the built-in one)")
	f.String("lock", "", "lock file (default: NAME.lock beside the definition file, else in the state folder)")
	f.Bool("update", false, "take the newest packages and write a new lock")
	f.String("mirror", "", "root of a Debian mirror (default: as apt is configured)")
	f.String("registry", "", "registry as HOST:PORT (default: the one in the state folder)")
	f.String("launcher", "", "the launcher that instances will run (default: cupel-init beside cupeld)")
	return c
}

// runSibling runs another binary of this build in the foreground and becomes
// its exit code. An interrupt reaches it as SIGTERM, so that it can clean up.
func (g *globals) runSibling(ctx context.Context, name string, args ...string) error {
	if err := g.here(); err != nil {
		return err
	}
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
		return problem.New(problem.NotFound, "program_missing", "%s is neither beside this program nor in PATH", name).
			Fix("build it (make build) or install it beside cupel")
	}
	return err
}

type measureOptions struct {
	name       string
	lock       string
	from       string
	definition string
	launcher   string
	mirror     string
	maxAge     string

	// registry opens what a reference names at the manager, where no --from says
	// otherwise.
	registry func(ref string) (*rebuild.RegistrySource, error)
}

func newRuntimeMeasureCommand(g *globals) *cobra.Command {
	var o measureOptions
	c := &cobra.Command{
		Use:   "measure NAME",
		Short: "Rebuild a runtime image from its lock and vouch for its measurement",
		Long: `Verify Debian's signature over the indices that a lock names, rebuild the image
from the same bytes in this process, and compute the measurement that an attested
instance of it has. Needs no root and trusts neither the operator nor the lock: a
lock that adds, leaves out or holds back a package is refused. What was measured
is remembered as vouched for.

An old index is signed as well, and its packages miss the fixes since: a lock
whose security and update indices are older than --max-age is refused. Of several
measurements of one runtime only that of the newest packages is accepted in a
session, unless you name another with --accept-measurement.`,
		Example: `  cupel runtime measure python --lock python.lock --from oci:registry.example:5050
  cupel runtime measure python --lock python.lock --from ./python-sources`,
		Args: exactArgs("NAME"),

		ValidArgsFunction: g.completeRuntimes,
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			return runRuntimeMeasure(c.Context(), g, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.lock, "lock", "", "lock file (default: the one in the artifact)")
	f.StringVar(&o.from, "from", "", "where the bytes are: a folder, oci:HOST:PORT[/REPOSITORY[:TAG]] or mirror (default: the operator's registry, of this machine or of --provider)")
	f.StringVar(&o.definition, "definition", "", "definition file (default: runtimes/NAME.yml if it is there, else the built-in one)")
	f.StringVar(&o.launcher, "launcher", "", "the launcher that instances run, a file or its SHA-256 (default: the one built with this program)")
	f.StringVar(&o.mirror, "mirror", "http://deb.debian.org", "root of the Debian mirror for --from mirror")
	f.StringVar(&o.maxAge, "max-age", "90 days", "refuse a lock whose security and update indices are older than this")
	return c
}

type measureReply struct {
	Runtime     string            `json:"runtime"`
	Measurement ident.Measurement `json:"measurement"`
	IndexDate   time.Time         `json:"index_date"` // the oldest of the security and update indices' dates
	Definition  string            `json:"definition"` // where it was read
	Lock        ident.Digest      `json:"lock"`
	Config      ident.Digest      `json:"config"`
	Launcher    ident.Digest      `json:"launcher"`
	Packages    []measuredPackage `json:"packages"`
	Checks      []rebuild.Check   `json:"checks"`

	// SupersededBy is the measurement of newer packages that the owner vouches
	// for: sessions accept that one, and this one only by name.
	SupersededBy *ident.Measurement `json:"superseded_by,omitempty"`
}

type measuredPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Index   string `json:"index"`
}

func runRuntimeMeasure(ctx context.Context, g *globals, o measureOptions) error {
	folder, err := g.folder() // before the long work
	if err != nil {
		return err
	}
	def, err := o.find()
	if err != nil {
		return err
	}
	launcher, err := launcherDigest(o.launcher)
	if err != nil {
		return err
	}
	lockText, src, err := o.open(ctx, g)
	if err != nil {
		return err
	}
	lock, err := rebuild.ParseLock(lockText)
	if err != nil {
		return err
	}
	// The lock's dates are its own words here. Build holds each against the date
	// that Debian signed, so nothing is vouched for by a lock that lies.
	if err := o.checkAge(lock, g.now()); err != nil {
		return err
	}
	if src == nil {
		if src, err = o.source(lock); err != nil {
			return err
		}
	}
	r := measureReply{Runtime: def.Name, Definition: whereFound(def), Lock: ident.Sum(lockText), Launcher: launcher}
	b := rebuild.Builder{Observe: func(k rebuild.Check) {
		r.Checks = append(r.Checks, k)
		if !g.json() {
			g.printf("ok  %s\n", k.Detail)
		}
	}}
	img, err := b.Build(ctx, def.Definition, lock, src)
	if err != nil {
		return err
	}
	defer img.Close()
	if err := r.fill(lock, img); err != nil {
		return err
	}
	v := owner.Vouched{Measurement: r.Measurement, Runtime: r.Runtime, Definition: def.Digest(), Lock: r.Lock,
		Launcher: launcher, IndexDate: r.IndexDate, How: "rebuilt from Debian's signed packages", At: g.now().UTC()}
	if err := owner.Vouch(folder, v); err != nil {
		return err
	}
	known, err := owner.ReadVouched(folder)
	if err != nil {
		return err
	}
	if newest, ok := owner.NewestVouched(known, r.Runtime); ok && newest.Measurement != r.Measurement {
		r.SupersededBy = &newest.Measurement
	}
	return g.showMeasured(r)
}

// find reads the definition to vouch for. What lies about in the current folder
// may have come with the operator's files: where it says something else than the
// definition of that name that is built in, the owner has to name it.
func (o *measureOptions) find() (*runtimes.Found, error) {
	found, err := runtimes.Find(o.name, o.definition)
	if p := problem.From(err); p != nil && p.Rule == "runtime_unknown" && problem.Nearest(o.name, runtimes.Names()) == "" {
		return nil, p.Fix("read the operator's (cupel runtime show %s > %s.yml), and name it with --definition if you vouch for it", o.name, o.name)
	}
	if err != nil || o.definition != "" || found.File == "" {
		return found, err
	}
	text, ok := runtimes.Definition(o.name)
	if !ok {
		return found, nil
	}
	own, err := rebuild.ParseDefinition(text)
	if err != nil {
		return nil, fmt.Errorf("the built-in definition of %s: %w", o.name, err)
	}
	if own.Digest() != found.Digest() {
		return nil, problem.New(problem.Denied, "definition_shadowed", "%s says something else than the definition of %s that is built into cupel", found.File, o.name).
			Want("the same runtime under the same name").
			Fix("read it, and give --definition %s if you vouch for it; else run this in another folder", found.File)
	}
	return found, nil
}

func (r *measureReply) fill(lock *rebuild.Lock, img *rebuild.Image) error {
	cfg, err := launch.ParseImageConfig(img.Config())
	if err != nil {
		return err
	}
	if r.Measurement, err = launch.Expected(launch.Newest, cfg, r.Launcher); err != nil {
		return err
	}
	r.Config = img.ConfigDigest()
	for _, p := range lock.Packages {
		r.Packages = append(r.Packages, measuredPackage{p.Name, p.Version, p.Index})
	}
	if oldest, ok := oldestMoving(lock); ok {
		r.IndexDate = oldest.Date
	}
	return nil
}

// oldestMoving returns the older of a lock's security and update indices. The
// release itself is dated by its last point release; the indices that move are
// what tells how fresh the packages are.
func oldestMoving(lock *rebuild.Lock) (oldest rebuild.Index, ok bool) {
	for _, x := range lock.Indices {
		if x.Suite != lock.Suite && (!ok || x.Date.Before(oldest.Date)) {
			oldest, ok = x, true
		}
	}
	return oldest, ok
}

// checkAge refuses a lock that is older than the owner accepts.
func (o *measureOptions) checkAge(lock *rebuild.Lock, now time.Time) error {
	most, err := session.ParseValidity(o.maxAge)
	if err != nil {
		return problem.New(problem.Invalid, "usage", "--max-age: %w", err)
	}
	oldest, ok := oldestMoving(lock)
	if age := now.Sub(oldest.Date); ok && age > most {
		return problem.New(problem.Denied, "lock_old", "the lock's index %s is of %s, %s ago", oldest.Suite, oldest.Date.UTC().Format(time.DateOnly), inDays(age)).
			Want("at most %s (--max-age)", o.maxAge).
			Fix("ask the operator for a lock of today's packages (cupel runtime build %s --update); only if you accept packages without the fixes since, give a longer --max-age", o.name)
	}
	return nil
}

func inDays(d time.Duration) string { return fmt.Sprintf("%d days", int(d.Hours()/24)) }

func (g *globals) showMeasured(r measureReply) error {
	if g.json() {
		return g.printJSON(r)
	}
	g.printf(`
runtime      %s, by the definition %s
index date   %s (%d days ago)
config       %s
launcher     %s
measurement  %s
vouched for  in %s
`, r.Runtime, r.Definition, r.IndexDate.Format(time.RFC3339), int(g.now().Sub(r.IndexDate).Hours()/24),
		r.Config, r.Launcher, r.Measurement, g.config)
	if r.SupersededBy != nil {
		g.printf(`
You vouch for newer packages of this runtime as well: %s
Sessions accept that measurement. This one they take only if you name it, with --accept-measurement.
`, r.SupersededBy)
	}
	return nil
}

// open returns the lock's text, and the source if that is where it came from.
func (o *measureOptions) open(ctx context.Context, g *globals) ([]byte, rebuild.Source, error) {
	if err := o.atManager(ctx, g); err != nil {
		return nil, nil, err
	}
	if o.lock != "" {
		b, err := os.ReadFile(o.lock)
		if err != nil {
			return nil, nil, problem.New(problem.NotFound, "runtime_lock", "%w", err).Fix("the operator's `cupel runtime build` writes it: ask for the file")
		}
		return b, nil, nil
	}
	if _, ok := strings.CutPrefix(o.from, "oci:"); !ok && o.registry == nil {
		return nil, nil, problem.New(problem.Invalid, "usage", "--from %s without --lock", o.from).Fix("name the lock with --lock FILE")
	}
	src, err := o.artifact(sourcesOf(o.name))
	if err != nil {
		return nil, nil, err
	}
	lock, _, err := src.ReadLock(ctx) // the artifact's definition is the operator's: not used
	return lock, src, err
}

// atManager has the manager's registry read where no --from names a source.
func (o *measureOptions) atManager(ctx context.Context, g *globals) error {
	if o.from != "" {
		return nil
	}
	at, err := g.manager(ctx)
	if err != nil && g.provider != "" {
		return err
	}
	if err != nil || !at.remote() && at.Registry == "" {
		return problem.New(problem.Invalid, "source_unnamed", "no operator runs on this machine").
			Fix("say where the lock's bytes are: --provider URL, --from DIR, --from oci:HOST:PORT or --from mirror")
	}
	o.registry = at.registry
	return nil
}

// registry opens what a reference names at the manager's registry. That of a provider
// listens on its own machine alone: the manager hands sources of images out.
func (m managerAt) registry(ref string) (*rebuild.RegistrySource, error) {
	if !m.remote() {
		return rebuild.ParseRegistrySource(m.Registry+"/"+ref, nil)
	}
	src, err := rebuild.ParseRegistrySource(m.Address+"/"+ref, m.dial(nil).HTTP())
	if err != nil {
		return nil, err
	}
	return src.OverTLS(), nil
}

// sourcesOf is what an operator's newest build of a runtime stores.
func sourcesOf(runtime string) string { return "runtimes/" + runtime + "/sources:latest" }

// artifact opens what a reference names, where --from says or at the manager.
func (o *measureOptions) artifact(ref string) (*rebuild.RegistrySource, error) {
	if o.registry != nil {
		return o.registry(ref)
	}
	where := strings.TrimPrefix(o.from, "oci:")
	if !strings.Contains(where, "/") {
		where += "/" + ref
	}
	return rebuild.ParseRegistrySource(where, nil)
}

// source returns the source that --from names, for a lock that came as a file.
func (o *measureOptions) source(lock *rebuild.Lock) (rebuild.Source, error) {
	if strings.HasPrefix(o.from, "oci:") || o.registry != nil {
		return o.artifact(cmp.Or(lock.Artifact, sourcesOf(o.name)))
	}
	if o.from == "mirror" {
		return rebuild.NewMirrorSource(o.mirror, lock, nil), nil
	}
	return rebuild.NewDirSource(o.from, lock), nil
}

// whereFound is for people.
func whereFound(def *runtimes.Found) string {
	return cmp.Or(def.File, "built into cupel "+version.Release())
}

// launcherDigest is of the launcher that was built with this program: what the
// owner expects the operator to run.
func launcherDigest(file string) (ident.Digest, error) {
	if file == "" {
		if d, ok := version.Launcher(); ok {
			return d, nil
		}
		file = sibling("cupel-init")
	}
	if d, err := ident.ParseDigest(file); err == nil {
		return d, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return ident.Digest{}, problem.New(problem.NotFound, "launcher_missing", "%w", err).
			Fix("build it (make build), or name it with --launcher")
	}
	return ident.Sum(b), nil
}

func newRuntimeListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the runtimes that are defined and the measurements vouched for",
		Example: "  cupel runtime list -o json",
		Args:    exactArgs(),
		RunE:    func(*cobra.Command, []string) error { return runRuntimeList(g) },
	}
}

type runtimeEntry struct {
	Runtime    string          `json:"runtime"`
	Definition string          `json:"definition"`
	Packages   []string        `json:"packages"`
	Vouched    []owner.Vouched `json:"vouched"`
}

func runRuntimeList(g *globals) error {
	folder, err := g.folder()
	if err != nil {
		return err
	}
	vouched, err := owner.ReadVouched(folder)
	if err != nil {
		return err
	}
	names := runtimes.Names()
	files, err := filepath.Glob(filepath.Join("runtimes", "*.yml"))
	if err != nil {
		return fmt.Errorf("list definitions: %w", err)
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".yml"))
	}
	slices.Sort(names)
	entries := []runtimeEntry{}
	for _, name := range slices.Compact(names) {
		def, err := runtimes.Find(name, "")
		if err != nil {
			return err
		}
		e := runtimeEntry{Runtime: name, Definition: whereFound(def), Packages: def.Packages, Vouched: []owner.Vouched{}}
		for _, v := range vouched {
			if v.Runtime == name {
				e.Vouched = append(e.Vouched, v)
			}
		}
		entries = append(entries, e)
	}
	if g.json() {
		return g.printJSON(entries)
	}
	var rows [][]string
	for _, e := range entries {
		row := []string{e.Runtime, e.Definition, "-", "none: cupel runtime measure " + e.Runtime}
		if len(e.Vouched) > 0 {
			v, _ := owner.NewestVouched(e.Vouched, e.Runtime)
			row[2], row[3] = v.IndexDate.Format(time.DateOnly), v.Measurement.String()
		}
		rows = append(rows, row)
	}
	return g.table([]string{"RUNTIME", "DEFINITION", "INDEX DATE", "VOUCHED MEASUREMENT"}, rows)
}
