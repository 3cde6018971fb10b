// Package arch holds the architecture as tests: which folder may import which,
// what the trusted binaries link, that every package says what it is.
package arch

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the checked-in lists")

const module = "cupel.dev/cupel"

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps,Standard"}, args...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

func within(path, folder string) bool {
	return path == module+"/"+folder || strings.HasPrefix(path, module+"/"+folder+"/")
}

// TestCoreAndAdapters: a core never imports its adapters, and adapters never
// import each other.
func TestCoreAndAdapters(t *testing.T) {
	adapters := []string{
		"internal/trusted/cas/casdb",
		"internal/operator/manager/managerdb",
		"internal/operator/node/containerd",
		"internal/operator/registry",
		"internal/operator/balance",
	}
	wiring := []string{"cmd", "internal/operator/daemon", "internal/testing/castest"}
	for _, p := range list(t, "./...") {
		if slices.ContainsFunc(wiring, func(w string) bool { return within(p.ImportPath, w) }) {
			continue
		}
		for _, a := range adapters {
			if within(p.ImportPath, a) {
				continue
			}
			for _, dep := range p.Imports {
				if within(dep, a) {
					t.Errorf("%s imports the adapter %s: only what wires the parts may", p.ImportPath, dep)
				}
			}
		}
	}
}

// TestTrustedBinaries holds the list of packages that an owner has to trust,
// checked in so that a new one is a decision: run with -update and say why.
func TestTrustedBinaries(t *testing.T) {
	for _, name := range []string{"cupel-cas", "cupel-init"} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range list(t, "-deps", "./cmd/"+name) {
				if p.Standard || strings.HasPrefix(p.ImportPath, "vendor/") {
					continue
				}
				got = append(got, p.ImportPath)
				if within(p.ImportPath, "internal/operator") || within(p.ImportPath, "internal/simtee") {
					t.Errorf("%s links %s", name, p.ImportPath)
				}
				if name == "cupel-init" && !strings.HasPrefix(p.ImportPath, module) && !strings.HasPrefix(p.ImportPath, "golang.org/x/sys/") {
					t.Errorf("the launcher links %s: the standard library and x/sys only", p.ImportPath)
				}
			}
			slices.Sort(got)
			text := strings.Join(got, "\n") + "\n"
			file := filepath.Join("testdata", name+".packages")
			if *update {
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), text); diff != "" {
				t.Errorf("%s links other packages than %s says (-want +got):\n%s", name, file, diff)
			}
		})
	}
}

// TestLogWriterIsSmall: there is one for each instance, so it links nothing but what it
// does; the libraries that cupeld links cost six times its memory before they do anything.
func TestLogWriterIsSmall(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/cupel-log") {
		own := within(p.ImportPath, "cmd/cupel-log") || within(p.ImportPath, "internal/operator/node/logfile") || within(p.ImportPath, "internal/procfs") || within(p.ImportPath, "internal/trusted/filelock")
		if !p.Standard && !own && !strings.HasPrefix(p.ImportPath, "golang.org/x/sys/") || p.ImportPath == "net/http" {
			t.Errorf("cupel-log links %s", p.ImportPath)
		}
	}
}

// TestEveryPackageIsDocumented: each package says what it owns.
func TestEveryPackageIsDocumented(t *testing.T) {
	documented := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && d.Name() != "../.." || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		dir := filepath.Dir(path)
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		documented[dir] = documented[dir] || f.Doc != nil
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no package comment", dir)
		}
	}
}

// TestDependenciesAreExplained: every direct dependency has its line.
func TestDependenciesAreExplained(t *testing.T) {
	doc, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.Contains(line, "// indirect") || !strings.Contains(fields[0], ".") || fields[0] == "module" {
			continue
		}
		if !bytes.Contains(doc, []byte("`"+fields[0]+"`")) {
			t.Errorf("docs/dependencies.md has no line for %s", fields[0])
		}
	}
}
