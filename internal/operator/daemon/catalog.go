package daemon

import (
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/build"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/registry"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/internal/trusted/owner/template"
	"cupel.dev/cupel/runtimes"
)

// catalog is the registry's runtimes, as manager.Catalog.
type catalog struct {
	registry *registry.Client
	launcher ident.Digest
	root     ident.Digest // of the simulated platform
	locks    string       // folder with copies of the locks that `runtime build` used
}

var _ manager.Catalog = (*catalog)(nil)

// Runtimes lists what was built, with the measurement that an instance of it
// will have under this machine's launcher. References name exact bytes. What can't be
// used, as it is damaged, has a problem in their place.
func (c *catalog) Runtimes(ctx context.Context) ([]managerapi.Runtime, error) {
	var out []managerapi.Runtime
	for _, name := range c.names() {
		ref := build.ImageRef(ident.RuntimeName(name))
		img, err := c.registry.PullImage(ctx, ref)
		if err != nil {
			switch p := problem.From(err); {
			case p.Kind == problem.NotFound:
			case p.Rule == registry.RuleDamaged:
				out = append(out, managerapi.Runtime{Name: name, Problem: p})
			default:
				return nil, err // of the registry, not of this image
			}
			continue
		}

		r, err := c.describe(name, ref, img)
		if err != nil {
			r = managerapi.Runtime{Name: name, Problem: problem.From(err)}
		}
		out = append(out, r)
	}
	return out, nil
}

// Runtime implements [manager.Catalog].
func (c *catalog) Runtime(ctx context.Context, name string) (managerapi.Runtime, error) {
	if slices.Contains(c.names(), name) {
		ref := build.ImageRef(ident.RuntimeName(name))
		img, err := c.registry.PullImage(ctx, ref)
		if err == nil {
			return c.describe(name, ref, img)
		}
		if problem.KindOf(err) != problem.NotFound {
			return managerapi.Runtime{}, err
		}
	}

	list, err := c.Runtimes(ctx)
	if err != nil {
		return managerapi.Runtime{}, err
	}

	var built []string
	for _, r := range list {
		if r.Problem == nil {
			built = append(built, r.Name)
		}
	}

	return managerapi.Runtime{}, runtimes.NotBuilt(name, built)
}

// names are the runtimes that come along, and those that were built from a definition of
// the operator's own.
func (c *catalog) names() []string {
	names := map[string]bool{}
	for _, n := range runtimes.Names() {
		names[n] = true
	}

	locks, _ := filepath.Glob(filepath.Join(c.locks, "*.lock")) // the pattern is valid
	for _, file := range locks {
		names[strings.TrimSuffix(filepath.Base(file), ".lock")] = true
	}

	return slices.Sorted(maps.Keys(names))
}

// describe is an image as manager and owners know it.
func (c *catalog) describe(name string, ref rebuild.Ref, img registry.Image) (managerapi.Runtime, error) {
	m, err := c.measure(img)
	if err != nil {
		p := *problem.From(err)
		return managerapi.Runtime{}, p.Fix("let the operator build it anew: cupel runtime build %s", name)
	}

	repository, _, _ := strings.Cut(string(ref), ":")
	r := managerapi.Runtime{Name: name, Image: c.registry.Addr() + "/" + repository + "@sha256:" + img.Manifest.String(), Measurement: m}

	var created struct {
		Created time.Time `json:"created"`
	}
	if json.Unmarshal(img.Config, &created) == nil {
		r.IndexDate = created.Created
	}

	// A copy that is gone or damaged is written anew by the next build.
	lock, err := atomicfile.Read(filepath.Join(c.locks, name+".lock"))
	var parsed *rebuild.Lock
	if err == nil {
		parsed, err = rebuild.ParseLock(lock)
	}
	if err == nil {
		r.LockDigest = ident.Sum(lock)
		if oldest, ok := parsed.OldestMoving(); ok {
			r.IndexDate = oldest.Date
		}
	}

	return r, nil
}

// measure is the measurement of instances of an image.
func (c *catalog) measure(img registry.Image) (ident.Measurement, error) {
	cfg, err := launch.ParseImageConfig(img.Config)
	if err != nil {
		return ident.Measurement{}, err
	}
	return launch.Expected(launch.Newest, cfg, c.launcher)
}

// template writes a session template as the query asks for it.
func (c *catalog) template(ctx context.Context, q url.Values) ([]byte, error) {
	in := template.Inputs{
		Runtime:      q.Get("runtime"),
		Command:      q.Get("command"),
		Volume:       q.Get("volume"),
		DNS:          q["dns"],
		Ref:          q.Get("ref"),
		OnRenewal:    q.Get("on_renewal"),
		Measurements: map[ident.ServiceName]ident.Measurement{},
	}

	if q.Get("simulation") == "true" {
		// This machine's root, for whoever fills the template in by hand. An owner's
		// cupel compares it with the root that the owner trusts.
		in.Simulation = &c.root
	}

	for _, service := range []ident.ServiceName{template.PullService, template.AppService} {
		r, err := c.Runtime(ctx, in.RuntimeOf(service))
		if err != nil {
			return nil, err
		}
		in.Measurements[service] = r.Measurement
	}

	return template.Render(in)
}
