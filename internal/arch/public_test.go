package arch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// public are the folders whose packages modules outside this repository import.
var public = []string{"api", "client"}

// TestPublicNamesPublic: whoever imports a public package can name every type that it shows:
// exported signatures, fields and values are of types of the standard library or of a public
// package.
func TestPublicNamesPublic(t *testing.T) {
	packages := typed(t, "./api/...", "./client/...", "./internal/trusted/cas")
	for path, p := range packages {
		hidden := hiddenTypes(p)
		if path == module+"/internal/trusted/cas" {
			if len(hidden) == 0 {
				t.Errorf("%s shows internal types, and the test meets none of them", path)
			}
			continue
		}
		for _, where := range hidden {
			t.Errorf("%s: no module outside can name it", where)
		}
	}
	if packages[module+"/client"] == nil || packages[module+"/api/problem"] == nil {
		t.Errorf("the test doesn't read what it should: %d packages", len(packages))
	}
}

// typed are packages with their exported types, as the compiler wrote them.
func typed(t *testing.T, patterns ...string) map[string]*types.Package {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-export", "-deps", "-json=ImportPath,Export,DepOnly"}, patterns...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}

	exports := map[string]string{}
	var asked []string
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p struct {
			ImportPath, Export string
			DepOnly            bool
		}
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if !p.DepOnly {
			asked = append(asked, p.ImportPath)
		}
	}

	read := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	packages := map[string]*types.Package{}
	for _, path := range asked {
		p, err := read.Import(path)
		if err != nil {
			t.Fatal(err)
		}
		packages[path] = p
	}
	return packages
}

// hiddenTypes says where a package shows a type that its importers can't name.
func hiddenTypes(p *types.Package) []string {
	var found []string
	for _, name := range p.Scope().Names() {
		o := p.Scope().Lookup(name)
		if !o.Exported() {
			continue
		}
		where := p.Path() + "." + name
		if is, ok := o.(*types.TypeName); ok && !is.IsAlias() {
			found = append(found, hiddenIn(where, is.Type().Underlying())...)
			named, _ := is.Type().(*types.Named)
			for m := range named.Methods() {
				if m.Exported() {
					found = append(found, hiddenIn(where+"."+m.Name(), m.Type())...)
				}
			}
			continue
		}
		found = append(found, hiddenIn(where, o.Type())...)
	}
	slices.Sort(found)
	return found
}

// hiddenIn says which types in another one can't be named; those of unexported fields are
// nobody's matter.
func hiddenIn(where string, in types.Type) []string {
	var found []string
	each := func(ts ...types.Type) {
		for _, t := range ts {
			found = append(found, hiddenIn(where, t)...)
		}
	}
	switch t := in.(type) {
	case *types.Alias:
		found = append(found, unnameable(where, t.Obj())...)
		each(types.Unalias(t))
	case *types.Named:
		found = append(found, unnameable(where, t.Obj())...)
		for arg := range t.TypeArgs().Types() {
			each(arg)
		}
	case *types.Pointer:
		each(t.Elem())
	case *types.Slice:
		each(t.Elem())
	case *types.Array:
		each(t.Elem())
	case *types.Chan:
		each(t.Elem())
	case *types.Map:
		each(t.Key(), t.Elem())
	case *types.Tuple:
		for v := range t.Variables() {
			each(v.Type())
		}
	case *types.Signature:
		each(t.Params(), t.Results())
		for p := range t.TypeParams().TypeParams() {
			each(p.Constraint())
		}
	case *types.Struct:
		for f := range t.Fields() {
			if f.Exported() {
				found = append(found, hiddenIn(where+"."+f.Name(), f.Type())...)
			}
		}
	case *types.Interface:
		for m := range t.ExplicitMethods() {
			each(m.Type())
		}
		for e := range t.EmbeddedTypes() {
			each(e)
		}
	}
	return found
}

// unnameable says that a type is unexported, or of a package that is neither public nor the
// standard library's.
func unnameable(where string, o *types.TypeName) []string {
	p := o.Pkg()
	if p == nil { // error, any, comparable
		return nil
	}
	first, _, _ := strings.Cut(p.Path(), "/")
	if o.Exported() && (withinAny(p.Path(), public) || !strings.Contains(first, ".")) {
		return nil
	}
	return []string{fmt.Sprintf("%s is of %s.%s", where, p.Path(), o.Name())}
}
