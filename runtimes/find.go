package runtimes

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
)

// Found is a definition and where it was found.
type Found struct {
	*rebuild.Definition
	Text []byte
	File string // empty: built in
}

// Find reads the definition of a runtime: out of file, or else out of
// runtimes/NAME.yml below the current folder, or else the one built in. A pipe is waited for
// until ctx ends.
func Find(ctx context.Context, name, file string) (*Found, error) {
	if _, err := rebuild.ParseName(name); err != nil {
		return nil, err
	}

	f := &Found{File: cmp.Or(file, filepath.Join("runtimes", name+".yml"))}
	var err error
	f.Text, err = atomicfile.ReadNamed(ctx, f.File, rebuild.MaxDefinition)
	if errors.Is(err, fs.ErrNotExist) && file == "" {
		text, ok := Definition(name)
		if !ok {
			unknown := problem.New(problem.NotFound, problem.RuleRuntimeUnknown, "no definition of a runtime %q", name).
				Want("one of %s, or a file", strings.Join(Names(), ", ")).Fix("name a file with --definition")
			if near := problem.Nearest(name, Names()); near != "" {
				unknown.Fix("did you mean %q? Else name a file with --definition", near)
			}
			return nil, unknown
		}

		f.Text = text
		f.File = ""
		err = nil
	}

	if err != nil {
		return nil, problem.New(problem.Invalid, problem.RuleRuntimeDefinition, "%w", err)
	}

	if f.Definition, err = rebuild.ParseDefinition(f.Text); err != nil {
		p := *problem.From(err)
		p.Actual = f.where() + ": " + p.Actual
		return nil, &p
	}

	if f.Name != name {
		return nil, problem.New(problem.Invalid, problem.RuleRuntimeDefinition, "%s defines %q", f.where(), f.Name).Want("%q", name)
	}

	return f, nil
}

// NotBuilt refuses a runtime of which an operator has no image, and names the one that
// was most likely meant, of those that are built there or come with Cupel.
func NotBuilt(name string, built []string) *problem.Error {
	p := problem.New(problem.NotFound, problem.RuleRuntime, "runtime %.100q is not built here", name).
		Want("one of: %s", cmp.Or(strings.Join(built, ", "), "none"))

	if slices.Contains(Names(), name) {
		return p.Fix("let the operator run 'cupel runtime build %s'", name)
	}
	if near := problem.Nearest(name, append(slices.Clone(built), Names()...)); near != "" {
		return p.Fix("did you mean %q?", near)
	}
	return p.Fix("give another, or let the operator build it from a definition: cupel runtime build %.100s --definition FILE", name)
}

func (f *Found) where() string { return cmp.Or(f.File, "the built-in definition") }
