package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	namedFlag    = regexp.MustCompile(`(?:^|[\s'"` + "`" + `(,:])--([a-z][a-z0-9-]*[a-z0-9])`)
	namedCommand = regexp.MustCompile("['`]cupel ([a-z][a-z-]*)(?: ([a-z]+))?")
	namedPage    = regexp.MustCompile(`\bdocs/[a-z0-9/_-]+\.md\b(?:#[\w-]+)?`)
	groups       = map[string]bool{"audit": true, "cas": true, "runtime": true, "session": true, "volume": true}
	foreign      = regexp.MustCompile(`\b(git|curl|openssl|apt-get|iptables|ip6tables|nft|firewall-cmd|systemctl|ufw|ip|sysctl|journalctl|ss) [^;]*`)
)

// TestMendsNameWhatIs: whatever a message tells people to give or to run exists:
// flags, commands, pages.
func TestMendsNameWhatIs(t *testing.T) {
	root := filepath.Join("..", "..")
	flags, commands := map[string]bool{"help": true}, map[string]bool{"completion": true, "help": true}
	var texts []message
	eachFile(t, root, func(path string, fset *token.FileSet, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				name := calledName(n)
				if strings.Contains(name, "Var") && len(n.Args) > 1 {
					addLiteral(flags, n.Args[1])
				}
				if slices.Contains([]string{"Bool", "String", "Int", "Duration"}, name) && len(n.Args) > 1 {
					addLiteral(flags, n.Args[0])
				}
				if slices.Contains([]string{"Fix", "Want", "New", "warnf", "refuse", "event"}, name) {
					for _, arg := range n.Args {
						texts = append(texts, literals(path, fset, arg)...)
					}
				}
			case *ast.KeyValueExpr:
				key, ok := n.Key.(*ast.Ident)
				switch {
				case ok && key.Name == "Use":
					if use := literals(path, fset, n.Value); len(use) > 0 {
						commands[strings.Fields(use[0].text)[0]] = true
					}
				case ok && slices.Contains([]string{"Mend", "Flag", "Expected", "Long", "Example"}, key.Name):
					texts = append(texts, literals(path, fset, n.Value)...)
				}
			case *ast.AssignStmt:
				for _, value := range n.Rhs {
					if _, ok := n.Lhs[0].(*ast.SelectorExpr); ok {
						texts = append(texts, literals(path, fset, value)...)
					}
				}
			}
			return true
		})
	})
	for _, line := range strings.Split(read(t, filepath.Join(root, "runtimes", "puller.yml")), "\n") {
		if s := strings.TrimSpace(line); strings.HasPrefix(s, "fail ") || strings.HasPrefix(s, "end ") {
			texts = append(texts, message{"runtimes/puller.yml", s})
		}
	}
	if len(flags) < 50 || len(commands) < 30 || len(texts) < 500 {
		t.Fatalf("%d flags, %d commands, %d texts: the test doesn't read what it should", len(flags), len(commands), len(texts))
	}

	for _, m := range texts {
		own := foreign.ReplaceAllString(m.text, "")
		for _, found := range namedFlag.FindAllStringSubmatch(own, -1) {
			if !flags[found[1]] {
				t.Errorf("%s names --%s, which no command has: %q", m.where, found[1], m.text)
			}
		}
		if strings.Contains(own, "--%s-") {
			t.Errorf("%s writes a flag's name in pieces, and nobody can tell whether there is such a flag: %q", m.where, m.text)
		}
		for _, found := range namedCommand.FindAllStringSubmatch(own, -1) {
			if !commands[found[1]] || groups[found[1]] && found[2] != "" && !commands[found[2]] {
				t.Errorf("%s names 'cupel %s %s', which there is not: %q", m.where, found[1], found[2], m.text)
			}
		}
		for _, page := range namedPage.FindAllString(m.text, -1) {
			if why := broken(t, filepath.Join(root, "README.md"), page); why != "" {
				t.Errorf("%s names %s: %s: %q", m.where, page, why, m.text)
			}
		}
	}
}

// message is a text that people may read, and where it stands.
type message struct{ where, text string }

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// eachFile visits the Go files of the product.
func eachFile(t *testing.T, root string, visit func(path string, fset *token.FileSet, file *ast.File)) {
	t.Helper()
	for _, dir := range []string{"api", "internal", "client", "cmd", "runtimes"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution|parser.ParseComments)
			if err == nil {
				visit(path, fset, file)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func calledName(call *ast.CallExpr) string { return lastName(call.Fun) }

// lastName is the name that an expression ends in: the one behind a package's, or the only
// one; empty where it is no name.
func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func addLiteral(to map[string]bool, e ast.Expr) {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		if s, err := strconv.Unquote(lit.Value); err == nil {
			to[s] = true
		}
	}
}

// literals are the texts in an expression.
func literals(path string, fset *token.FileSet, e ast.Expr) []message {
	var out []message
	ast.Inspect(e, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil && strings.TrimSpace(s) != "" {
				out = append(out, message{path + ":" + strconv.Itoa(fset.Position(lit.Pos()).Line), s})
			}
		}
		return true
	})
	return out
}

// TestMendsAreWhole: what a person is told to do ends where a sentence can. A key of a
// session's with its colon behind reads as if the rest were cut off.
func TestMendsAreWhole(t *testing.T) {
	met := 0
	eachFile(t, filepath.Join("..", ".."), func(path string, fset *token.FileSet, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			var of []ast.Expr
			switch n := n.(type) {
			case *ast.CallExpr:
				if slices.Contains([]string{"Fix", "Want", "New"}, calledName(n)) {
					of = n.Args
				}
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && slices.Contains([]string{"Mend", "Expected", "Actual"}, key.Name) {
					of = []ast.Expr{n.Value}
				}
			case *ast.AssignStmt:
				of = n.Rhs
			}
			for _, arg := range of {
				text, ok := arg.(*ast.BasicLit)
				if !ok || text.Kind != token.STRING || !strings.Contains(text.Value, " ") {
					continue
				}
				met++
				said, err := strconv.Unquote(text.Value)
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasSuffix(strings.TrimRight(said, ") "), ":") {
					t.Errorf("%s: %s reads as if it were cut off", fset.Position(text.Pos()), text.Value)
				}
			}
			return true
		})
	})
	if met < 500 {
		t.Fatalf("%d texts: the test doesn't read what it should", met)
	}
}
