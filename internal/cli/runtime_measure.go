package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/internal/trusted/owner/reference"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/version"
	"cupel.dev/cupel/runtimes"
)

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
			if err := goesWith(c, "mirror", "--from mirror", o.from == "mirror"); err != nil {
				return err
			}
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

	def, err := o.find(ctx)
	if err != nil {
		return err
	}
	launcher, err := launcherDigest(ctx, o.launcher)
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

	r := measureReply{
		Runtime:    def.Name,
		Definition: whereFound(def),
		Lock:       ident.Sum(lockText),
		Launcher:   launcher,
	}
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

	v := reference.Value{
		Measurement: r.Measurement,
		Runtime:     r.Runtime,
		Definition:  def.Digest(),
		Lock:        r.Lock,
		Launcher:    launcher,
		IndexDate:   r.IndexDate,
		How:         "rebuilt from Debian's signed packages",
		At:          g.now().UTC(),
	}
	if r.SupersededBy, err = vouch(folder, v); err != nil {
		return err
	}

	return g.showMeasured(r)
}

// vouch notes what the owner vouches for. It returns the measurement of newer packages
// of the same runtime that they vouch for already, if there is one.
func vouch(folder string, v reference.Value) (newer *ident.Measurement, err error) {
	if err := reference.Add(folder, v); err != nil {
		return nil, err
	}

	values, err := reference.Read(folder)
	if err != nil {
		return nil, err
	}

	if newest, ok := reference.Newest(values, v.Runtime); ok && newest.Measurement != v.Measurement {
		return &newest.Measurement, nil
	}
	return nil, nil
}

// find reads the definition to vouch for. What lies about in the current folder
// may have come with the operator's files: where it says something else than the
// definition of that name that is built in, the owner has to name it.
func (o *measureOptions) find(ctx context.Context) (*runtimes.Found, error) {
	found, err := runtimes.Find(ctx, o.name, o.definition)
	if p := problem.From(err); p != nil && p.Rule == problem.RuleRuntimeUnknown && problem.Nearest(o.name, runtimes.Names()) == "" {
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
		return nil, problem.New(problem.Denied, ruleDefinitionShadowed, "%s says something else than the definition of %s that is built into cupel", found.File, o.name).
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

	if oldest, ok := lock.OldestMoving(); ok {
		r.IndexDate = oldest.Date
	}

	return nil
}

// checkAge refuses a lock that is older than the owner accepts.
func (o *measureOptions) checkAge(lock *rebuild.Lock, now time.Time) error {
	most, err := session.ParseValidity(o.maxAge)
	if err != nil {
		return problem.New(problem.Invalid, problem.RuleUsage, "--max-age: %w", err)
	}

	oldest, ok := lock.OldestMoving()
	if age := now.Sub(oldest.Date); ok && age > most {
		return problem.New(problem.Denied, ruleLockOld, "the lock's index %s is of %s, %s ago", oldest.Suite, oldest.Date.UTC().Format(time.DateOnly), inDays(age)).
			Want("at most %s (--max-age)", o.maxAge).
			Fix("ask the operator for a lock of today's packages (cupel runtime build %s --update); only if you accept packages without the fixes since, give a longer --max-age", o.name)
	}
	return nil
}

func inDays(d time.Duration) string { return problem.Count(int(d.Hours()/24), "day") }

func (g *globals) showMeasured(r measureReply) error {
	if g.json() {
		return g.printJSON(r)
	}
	g.printf(`
runtime      %s, by the definition %s
index date   %s (%s ago)
config       %s
launcher     %s
measurement  %s
vouched for  in %s
`, r.Runtime, r.Definition, r.IndexDate.Format(time.RFC3339), inDays(g.now().Sub(r.IndexDate)),
		r.Config, r.Launcher, r.Measurement, g.config)

	if r.SupersededBy != nil {
		g.printf(`
You vouch for newer packages of this runtime as well: %s
Sessions accept that measurement. This one they take only if you name it, with --accept-measurement.
`, r.SupersededBy)
	}
	return nil
}

// whereFound says, for people, where a definition was read.
func whereFound(def *runtimes.Found) string {
	return cmp.Or(def.File, "built into cupel "+version.Release())
}

// launcherDigest is the digest of what the owner expects the operator to run: the launcher
// that --launcher names as a file or by its digest, else the one that was built with this
// program.
func launcherDigest(ctx context.Context, file string) (ident.Digest, error) {
	if file == "" {
		if d, ok := version.Launcher(); ok {
			return d, nil
		}
		file = sibling("cupel-init")
	}

	if d, err := ident.ParseDigest(file); err == nil {
		return d, nil
	}

	b, err := atomicfile.ReadNamed(ctx, file, launch.MaxLauncher)
	if err != nil {
		return ident.Digest{}, problem.New(problem.NotFound, problem.RuleLauncherMissing, "%w", err).
			Fix("build it (make build), or name it with --launcher")
	}

	if !bytes.HasPrefix(b, []byte("\x7fELF")) {
		return ident.Digest{}, problem.New(problem.Invalid, ruleLauncher, "%s is no program", file).
			Want("cupel-init of the operator's release, or its SHA-256").Fix("name it with --launcher")
	}

	return ident.Sum(b), nil
}
