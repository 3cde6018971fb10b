package cli

import (
	"cmp"
	"context"
	"strings"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
)

// open returns the lock's text, and the source if that is where it came from.
func (o *measureOptions) open(ctx context.Context, g *globals) ([]byte, rebuild.Source, error) {
	if err := o.atManager(ctx, g); err != nil {
		return nil, nil, err
	}

	if o.lock != "" {
		b, err := readSmall(ctx, o.lock, rebuild.MaxLock)
		if err != nil {
			p := *problem.From(err)
			p.Rule = problem.RuleRuntimeLock
			return nil, nil, p.Fix("the operator's `cupel runtime build` writes it: ask for the file")
		}
		return b, nil, nil
	}

	if _, ok := strings.CutPrefix(o.from, "oci:"); !ok && o.registry == nil {
		return nil, nil, problem.New(problem.Invalid, problem.RuleUsage, "--from %s without --lock", o.from).Fix("name the lock with --lock FILE")
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
		return problem.New(problem.Invalid, ruleSourceUnnamed, "no operator runs on this machine").
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
		return o.artifact(cmp.Or(string(lock.Artifact), sourcesOf(o.name)))
	}
	if o.from == "mirror" {
		return rebuild.NewMirrorSource(o.mirror, lock, nil), nil
	}
	return rebuild.NewDirSource(o.from, lock), nil
}
