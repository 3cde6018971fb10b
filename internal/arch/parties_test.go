package arch

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// leaves are small packages without a party: each does one thing that both sides need,
// and imports nothing but terms.
const leaves = "leaves"

// party is one row of the table: a folder, what it is, and the folders that it may import
// beside itself.
type party struct {
	folder string
	what   string
	may    []string
}

// parties is who may import whom. The longest folder that a package lies in is its row;
// docs/architecture.md shows the same table.
var parties = []party{
	{"api", "terms and wire types that more than one party speaks", nil},
	{"client", "the public clients of CAS and manager", []string{"api", "trusted/wire", "trusted/verify", "trusted/audit", "wording", "procfs", leaves}},

	{"internal/trusted/wire", "instance to CAS, to LAS, to node", []string{"api", leaves}},
	{"internal/trusted/verify", "evidence to claims, claims to a decision", []string{"api", leaves}},
	{"internal/trusted/audit", "the signed log", []string{"api", leaves}},
	{"internal/trusted/session", "the session language", []string{"api", "trusted/verify/appraise", leaves}},
	{"internal/trusted/launch", "launch profiles and the measurement over them", []string{"api", leaves}},
	{"internal/trusted/sealed", "the format of sealed snapshots", []string{"api", leaves}},
	{"internal/trusted/cas", "the CAS", []string{"api", "trusted/wire", "trusted/verify", "trusted/audit", "trusted/session", leaves}},
	{"internal/trusted/instance", "what runs inside an instance", []string{"api", "trusted/wire", "trusted/sealed", leaves}},
	{"internal/trusted/owner", "what an owner's command decides by", []string{"api", "trusted/wire", "trusted/verify", "trusted/session", "trusted/launch", leaves}},

	{"internal/operator", "orchestration, trusted with nothing", []string{
		"api", "client", "trusted/wire", "trusted/launch", "trusted/sealed", "trusted/cas/quota", "trusted/owner/template", "trusted/owner/rebuild",
		"runtimes", "simtee", "wording", "procfs", "ask", "upflags", "version", leaves,
	}},
	{"internal/simtee", "simulated hardware", []string{"api", "trusted/verify/dcap", leaves}},
	{"internal/cli", "the command line", []string{
		"api", "client", "trusted/wire", "trusted/verify", "trusted/session", "trusted/launch", "trusted/owner", "runtimes", "wording", "ask", "upflags", "version", leaves,
	}},
	{"internal/wording", "what the system and Go say, in other words", []string{"api"}},
	{"internal/procfs", "what the kernel says of a process", nil},
	{"internal/ask", "questions to a person", nil},
	{"internal/upflags", "the flags of cupel up, for cupel and cupeld", nil},
	{"internal/version", "what this build is", []string{"api"}},
	{"internal/arch", "these rules", nil},
	{"runtimes", "the definitions that come along", []string{"api", "trusted/owner/rebuild", leaves}},

	{"cmd/cupel", "", []string{"cli"}},
	{"cmd/cupeld", "", []string{"operator/daemon"}},
	{"cmd/cupel-log", "", []string{"operator/node/logfile"}},
	{"cmd/cupel-cas", "", []string{"api", "trusted/wire", "trusted/verify", "trusted/cas", "version", leaves}},
	{"cmd/cupel-init", "", []string{"trusted/instance", "trusted/wire", "trusted/sealed"}},
}

// leafFolders are the packages that the table calls leaves.
var leafFolders = []string{
	"internal/trusted/aesgcm", "internal/trusted/atomicfile", "internal/trusted/connlimit", "internal/trusted/diskerror", "internal/trusted/fieldhash",
	"internal/trusted/filelock", "internal/trusted/httpproblem", "internal/trusted/minrate", "internal/trusted/secret", "internal/trusted/selfsigned", "internal/trusted/sgxquote",
}

// outside are folders of tests, measurements and examples: they may import what they try.
var outside = []string{"internal/testing", "e2e", "bench", "examples"}

// rowOf finds the row of a package; nil where it lies outside the table.
func rowOf(path string) *party {
	var best *party
	for i := range parties {
		if within(path, parties[i].folder) && (best == nil || len(parties[i].folder) > len(best.folder)) {
			best = &parties[i]
		}
	}
	return best
}

func withinAny(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return within(path, f) })
}

// allowed reports whether a package of a row may import another of ours.
func (p *party) allowed(dep string) bool {
	if within(dep, p.folder) {
		return true
	}
	return slices.ContainsFunc(p.may, func(f string) bool {
		if f == leaves {
			return withinAny(dep, leafFolders)
		}
		return within(dep, f) || within(dep, "internal/"+f)
	})
}

// TestImports: folders are parties, and trust direction is import direction.
func TestImports(t *testing.T) {
	met := map[string]bool{}
	for _, p := range list(t, "./...") {
		if withinAny(p.ImportPath, outside) {
			continue
		}
		row := rowOf(p.ImportPath)
		leaf := withinAny(p.ImportPath, leafFolders)
		if row == nil && !leaf {
			t.Errorf("%s has no row in the table of who may import whom", p.ImportPath)
			continue
		}
		if leaf {
			row = &party{folder: strings.TrimPrefix(p.ImportPath, module+"/"), may: []string{"api"}}
		}
		met[row.folder] = true
		for _, dep := range p.Imports {
			if dep == "net/http" && row.folder == "api" {
				t.Errorf("%s imports net/http: terms need no transport", p.ImportPath)
			}
			if strings.HasPrefix(dep, module+"/") && !row.allowed(dep) {
				t.Errorf("%s imports %s; %s may import %s", p.ImportPath, dep, row.folder, strings.Join(row.may, ", "))
			}
		}
	}
	for _, row := range parties {
		if !met[row.folder] {
			t.Errorf("the table has a row for %s, where there is no package", row.folder)
		}
	}
}

// TestArchitectureShowsTheTable: docs/architecture.md shows the table that is tested.
func TestArchitectureShowsTheTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("| folder | what it is | may import |\n|---|---|---|\n")
	for _, row := range parties {
		if row.what == "" {
			continue
		}
		may := strings.Join(row.may, ", ")
		if may == "" {
			may = "nothing of ours"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", row.folder, row.what, may)
	}
	var small []string
	for _, f := range leafFolders {
		small = append(small, "`"+strings.TrimPrefix(f, "internal/trusted/")+"`")
	}
	fmt.Fprintf(&b, "\nLeaves are %s of `internal/trusted`: they import `api` alone.\n", strings.Join(small, ", "))

	page := read(t, filepath.Join("..", "..", "docs", "architecture.md"))
	if !strings.Contains(page, b.String()) {
		t.Errorf("docs/architecture.md doesn't show the table of who may import whom; it is:\n\n%s", b.String())
	}
}
