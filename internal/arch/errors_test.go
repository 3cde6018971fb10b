package arch

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
)

// rule is one constant of type problem.Rule, and what its comment says.
type rule struct {
	value, name, meaning, mend string

	// kinds are those with which it is raised: as the comment says after "Kind: ", or as
	// found in the code. "event" is one that only tells what happened.
	kinds  map[problem.Kind]bool
	usedIn map[string]bool // folders
}

// ruleBook is every rule of the product, by the folder and name of its constant.
type ruleBook struct {
	rules map[string]*rule // "api/problem.RuleUsage"
	files []ruleFile
}

type ruleFile struct {
	path, folder string
	fset         *token.FileSet
	file         *ast.File
}

// readRules reads all constants, and then who raises them.
func readRules(t *testing.T) *ruleBook {
	root := filepath.Join("..", "..")
	book := &ruleBook{rules: map[string]*rule{}}
	eachFile(t, root, func(path string, fset *token.FileSet, file *ast.File) {
		folder, _ := filepath.Rel(root, filepath.Dir(path))
		if strings.HasPrefix(folder, "internal/testing") { // whose fakes repeat what they stand for
			return
		}
		book.files = append(book.files, ruleFile{path, folder, fset, file})
		for _, d := range file.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.CONST {
				book.declare(t, folder, g)
			}
		}
	})
	// A rule may reach New through the parameters of functions: two steps are enough.
	for range 3 {
		for _, f := range book.files {
			book.raised(f)
		}
	}

	// Of a rule that lies in a table no call tells: it is raised as its packages raise what
	// they look up.
	tables, variables := map[string]map[problem.Kind]bool{}, map[string]map[problem.Kind]bool{}
	for _, f := range book.files {
		if tables[f.folder] == nil {
			tables[f.folder], variables[f.folder] = map[problem.Kind]bool{}, map[problem.Kind]bool{}
		}
		byTable, byVariable := book.lookedUp(f)
		maps.Copy(tables[f.folder], byTable)
		maps.Copy(variables[f.folder], byVariable)
	}
	for _, r := range book.rules {
		if len(r.kinds) > 0 {
			continue
		}
		for folder := range r.usedIn {
			maps.Copy(r.kinds, tables[folder])
			if len(tables[folder]) == 0 {
				maps.Copy(r.kinds, variables[folder])
			}
		}
	}
	return book
}

func (b *ruleBook) declare(t *testing.T, folder string, g *ast.GenDecl) {
	for _, s := range g.Specs {
		spec := s.(*ast.ValueSpec)
		if !isRuleType(spec.Type, folder) {
			continue
		}
		text := spec.Doc.Text()
		if text == "" && len(g.Specs) == 1 {
			text = g.Doc.Text()
		}
		if text == "" {
			text = spec.Comment.Text()
		}
		for i, id := range spec.Names {
			lit, ok := spec.Values[i].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: the rule %s is no literal", folder, id.Name)
				continue
			}
			value, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			text, kinds, _ := strings.Cut(strings.Join(strings.Fields(text), " "), " Kind: ")
			meaning, mend, _ := strings.Cut(text, " Mend: ")
			meaning = strings.TrimPrefix(meaning, id.Name+": ")
			r := &rule{value: value, name: id.Name, meaning: meaning, mend: mend, kinds: map[problem.Kind]bool{}, usedIn: map[string]bool{}}
			for _, k := range strings.FieldsFunc(kinds, func(c rune) bool { return c == ' ' || c == ',' || c == '.' }) {
				r.kinds[problem.Kind(k)] = true
			}
			b.rules[folder+"."+id.Name] = r
		}
	}
}

// isRuleType reports whether a declaration's type is problem.Rule.
func isRuleType(e ast.Expr, folder string) bool {
	_, qualified := e.(*ast.SelectorExpr)
	return lastName(e) == "Rule" && (qualified || folder == "api/problem")
}

// at finds the rule that an expression names; nil if it names none.
func (b *ruleBook) at(f ruleFile, e ast.Expr) *rule {
	switch e := e.(type) {
	case *ast.Ident:
		return b.rules[f.folder+"."+e.Name]
	case *ast.SelectorExpr:
		x, ok := e.X.(*ast.Ident)
		if !ok {
			return nil
		}
		for _, im := range f.file.Imports {
			path, _ := strconv.Unquote(im.Path.Value)
			folder := strings.TrimPrefix(path, module+"/")
			if filepath.Base(folder) == x.Name || im.Name != nil && im.Name.Name == x.Name {
				if r := b.rules[folder+"."+e.Sel.Name]; r != nil {
					return r
				}
			}
		}
	}
	return nil
}

// kindOf is the problem.Kind that an expression names.
func kindOf(e ast.Expr) problem.Kind {
	name := lastName(e)
	for _, k := range []problem.Kind{problem.Invalid, problem.NotFound, problem.Conflict, problem.Unauthenticated, problem.Denied, problem.Unavailable, problem.Internal} {
		if strings.ReplaceAll(string(k), "_", "") == strings.ToLower(name) {
			return k
		}
	}
	return ""
}

// raised notes with which kinds the rules of one file are raised: in the function where
// the rule stands, a kind that is the argument before it, or else every kind that the
// function that takes it, or the one that it stands in, names.
func (b *ruleBook) raised(f ruleFile) {
	for _, d := range f.file.Decls {
		within := kindsIn(d)
		ast.Inspect(d, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				for i, arg := range n.Args {
					r := b.at(f, arg)
					if r == nil {
						continue
					}
					if i > 0 && kindOf(n.Args[i-1]) != "" {
						r.kinds[kindOf(n.Args[i-1])] = true
					} else if calledName(n) != "Is" {
						maps.Copy(r.kinds, b.kindsOfFunction(f.folder, calledName(n)))
					}
				}
			case *ast.CompositeLit:
				var kind problem.Kind
				var is *rule
				for _, e := range n.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok {
						if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Kind" {
							kind = kindOf(kv.Value)
						} else if ok && key.Name == "Rule" {
							is = b.at(f, kv.Value)
						}
					}
				}
				if lastName(n.Type) == "Finding" { // a Decision refuses by it
					kind = problem.Denied
				}
				if kind != "" && is != nil {
					is.kinds[kind] = true
				}
			case *ast.Ident:
				if r := b.at(f, n); r != nil {
					r.usedIn[f.folder] = true
					if len(r.kinds) == 0 {
						maps.Copy(r.kinds, within)
					}
				}
			case *ast.SelectorExpr:
				if r := b.at(f, n); r != nil {
					r.usedIn[f.folder] = true
				}
			}
			return true
		})
	}
}

// lookedUp are the kinds with which a file raises rules that aren't named there: what it
// looks up in a table, or else what comes to it by a variable.
func (b *ruleBook) lookedUp(f ruleFile) (byTable, byVariable map[problem.Kind]bool) {
	byTable, byVariable = map[problem.Kind]bool{}, map[problem.Kind]bool{}
	ast.Inspect(f.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if ok && calledName(call) == "New" && len(call.Args) > 1 && b.at(f, call.Args[1]) == nil && kindOf(call.Args[0]) != "" {
			if _, table := call.Args[1].(*ast.IndexExpr); table {
				byTable[kindOf(call.Args[0])] = true
			} else {
				byVariable[kindOf(call.Args[0])] = true
			}
		}
		return true
	})
	return byTable, byVariable
}

// kindsOfFunction are the kinds that a function of a folder names.
func (b *ruleBook) kindsOfFunction(folder, name string) map[problem.Kind]bool {
	out := map[problem.Kind]bool{}
	for _, f := range b.files {
		for _, d := range f.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && fn.Name.Name == name && f.folder == folder {
				maps.Copy(out, kindsIn(fn))
			}
		}
	}
	return out
}

func kindsIn(n ast.Node) map[problem.Kind]bool {
	out := map[problem.Kind]bool{}
	ast.Inspect(n, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "problem" && kindOf(sel) != "" {
				out[kindOf(sel)] = true
			}
		}
		return true
	})
	return out
}

var exitRow = regexp.MustCompile(`(?m)^\| (\d+) \| rules? ([^|]*) \|`)

// exitsOfTheirOwn are the exit codes that docs/cli.md gives to single rules.
func exitsOfTheirOwn(t *testing.T) map[string]string {
	out := map[string]string{}
	for _, row := range exitRow.FindAllStringSubmatch(read(t, filepath.Join("..", "..", "docs", "cli.md")), -1) {
		for _, named := range quotedRule.FindAllStringSubmatch(row[2], -1) {
			out[named[1]] = row[1]
		}
	}
	if len(out) < 5 {
		t.Errorf("docs/cli.md gives codes of their own to %v", out)
	}
	return out
}

// page is docs/errors.md.
func (b *ruleBook) page(own map[string]string) string {
	all := slices.SortedFunc(maps.Values(b.rules), func(x, y *rule) int { return strings.Compare(x.value, y.value) })
	var out strings.Builder
	out.WriteString(`# Errors

Every refusal of Cupel's names a rule, says what was expected and what was met, and how to mend it. This page lists all rules; it is made from the comments
beside them (` + "`go test ./internal/arch -update`" + `). A command that ends by a refusal exits with the code in the table, and with ` + "`-o json`" + ` writes the whole refusal
to standard error; an API answers with the HTTP status. A rule that is raised in several ways has several of both. Rules without them only tell what happened.

| rule | meaning | mend | exit code | HTTP status |
|---|---|---|---|---|
`)
	for _, r := range all {
		var exits, statuses []string
		for _, k := range slices.Sorted(maps.Keys(r.kinds)) {
			if k == "event" {
				continue
			}
			exits = append(exits, strconv.Itoa(k.ExitCode()))
			statuses = append(statuses, strconv.Itoa(k.Status()))
		}
		slices.Sort(exits)
		slices.Sort(statuses)
		if code := own[r.value]; code != "" {
			exits = []string{code}
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s | %s |\n", r.value, cell(r.meaning), cell(r.mend), strings.Join(exits, ", "), strings.Join(statuses, ", "))
	}
	return out.String()
}

func cell(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "|", `\|`) }

// TestErrorsAreListed: docs/errors.md has every rule that there is, each has one constant,
// and each constant says what it means and how to mend it.
func TestErrorsAreListed(t *testing.T) {
	book := readRules(t)
	values := map[string]string{}
	for at, r := range book.rules {
		if other, twice := values[r.value]; twice {
			t.Errorf("the rule %q has two constants, %s and %s: put one where both can see it", r.value, other, at)
		}
		values[r.value] = at
		if r.meaning == "" || r.mend == "" {
			t.Errorf("%s (%q): its comment must say \"%s: what is the matter. Mend: what to do.\"; meaning %q, mend %q", at, r.value, r.name, r.meaning, r.mend)
		}
		if len(r.kinds) == 0 {
			t.Errorf("%s (%q) is raised nowhere", at, r.value)
		}
	}
	if len(values) < 300 {
		t.Errorf("%d rules: the test doesn't read what it should", len(values))
	}

	path := filepath.Join("..", "..", "docs", "errors.md")
	page := []byte(book.page(exitsOfTheirOwn(t)))
	if *update {
		if err := os.WriteFile(path, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, page) {
		t.Errorf("%s is not of these rules: run go test ./internal/arch -update", path)
	}
}

// TestNoRuleIsALiteral: whoever raises a rule or branches on one names its constant.
func TestNoRuleIsALiteral(t *testing.T) {
	book := readRules(t)
	for _, f := range book.files {
		ast.Inspect(f.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				sel, ok := n.Fun.(*ast.SelectorExpr)
				if ok && sel.Sel.Name == "New" && isProblem(sel.X) && len(n.Args) > 1 {
					if lit, ok := n.Args[1].(*ast.BasicLit); ok {
						t.Errorf("%s raises the rule %s as a literal", f.fset.Position(lit.Pos()), lit.Value)
					}
				}
			case *ast.BinaryExpr:
				sel, ok := n.X.(*ast.SelectorExpr)
				lit, isLit := n.Y.(*ast.BasicLit)
				if ok && isLit && sel.Sel.Name == "Rule" && lit.Kind == token.STRING {
					t.Errorf("%s branches on the rule %s as a literal", f.fset.Position(lit.Pos()), lit.Value)
				}
			}
			return true
		})
	}
}

func isProblem(e ast.Expr) bool {
	x, ok := e.(*ast.Ident)
	return ok && x.Name == "problem"
}
