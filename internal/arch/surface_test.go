package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// surface counts what packages show to each other.
type surface struct {
	parameters, bare       int // of exported functions and methods; bare: string or []byte
	names, undocumented    int
	lines, blank           int // within functions
	bareBy, undocumentedAt map[string]int
}

// TestSurface: what crosses the border of a package says by its type what it is, what is
// exported says what it does, and functions are paragraphs.
func TestSurface(t *testing.T) {
	s := surface{bareBy: map[string]int{}, undocumentedAt: map[string]int{}}
	root := filepath.Join("..", "..")
	eachFile(t, root, func(path string, fset *token.FileSet, file *ast.File) {
		folder, _ := filepath.Rel(root, filepath.Dir(path))
		if strings.Contains(folder, "testing") {
			return
		}
		lines := strings.Split(read(t, path), "\n")
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				s.function(folder, fset, lines, d)
			case *ast.GenDecl:
				s.declared(folder, d)
			}
		}
	})

	share := func(part, of int) float64 { return 100 * float64(part) / float64(of) }
	figures := fmt.Sprintf("%d of %d parameters of exported functions (%.1f %%) are a bare string or []byte; %d of %d exported names (%.2f %%) have no comment; "+
		"%d of %d lines in functions (%.2f %%) are blank", s.bare, s.parameters, share(s.bare, s.parameters), s.undocumented, s.names, share(s.undocumented, s.names),
		s.blank, s.lines, share(s.blank, s.lines))
	t.Log(figures)
	if share(s.bare, s.parameters) > 20 {
		t.Errorf("%s: at most 20 %% may be bare; most are in %s", figures, most(s.bareBy))
	}
	if share(s.undocumented, s.names) > 1 {
		t.Errorf("%s: at most 1 %% may have none: %s", figures, most(s.undocumentedAt))
	}
	if share(s.blank, s.lines) < 4 {
		t.Errorf("%s: at least 4 %% should be", figures)
	}
}

func (s *surface) function(folder string, fset *token.FileSet, lines []string, d *ast.FuncDecl) {
	if d.Body != nil {
		for i := fset.Position(d.Body.Lbrace).Line; i < fset.Position(d.Body.Rbrace).Line-1; i++ {
			s.lines++
			if strings.TrimSpace(lines[i]) == "" {
				s.blank++
			}
		}
	}
	if !d.Name.IsExported() || !exportedReceiver(d) {
		return
	}

	if says(d.Name.Name) { // and its parameters are what the interface has
		return
	}
	s.names++
	if d.Doc == nil {
		s.undocumented++
		s.undocumentedAt[folder+"."+d.Name.Name]++
	}

	for _, p := range d.Type.Params.List {
		n := max(1, len(p.Names))
		s.parameters += n
		if isBare(p.Type) {
			s.bare += n
			s.bareBy[folder] += n
		}
	}
}

func (s *surface) declared(folder string, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			s.name(folder, spec.Name, d.Doc != nil || spec.Doc != nil || spec.Comment != nil)
		case *ast.ValueSpec:
			for _, n := range spec.Names {
				s.name(folder, n, d.Doc != nil || spec.Doc != nil || spec.Comment != nil)
			}
		}
	}
}

func (s *surface) name(folder string, id *ast.Ident, documented bool) {
	if !id.IsExported() {
		return
	}
	s.names++
	if !documented {
		s.undocumented++
		s.undocumentedAt[folder+"."+id.Name]++
	}
}

// says reports whether a method's name says all there is: those that interfaces of the
// standard library ask for.
func says(name string) bool {
	return slices.Contains([]string{
		"String", "GoString", "Error", "Unwrap", "Format", "LogValue", "MarshalText", "UnmarshalText", "MarshalJSON", "UnmarshalJSON",
		"Read", "Write", "Close", "Len", "Less", "Swap",
	}, name)
}

// exportedReceiver is false for a method of a type that nobody outside can name.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}

func isBare(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "string"
	case *ast.ArrayType:
		id, ok := e.Elt.(*ast.Ident)
		return ok && e.Len == nil && id.Name == "byte"
	}
	return false
}

// most names the folders with the highest counts.
func most(counts map[string]int) string {
	var names []string
	for n := range counts {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int { return counts[b] - counts[a] })
	var out []string
	for _, n := range names[:min(25, len(names))] {
		out = append(out, fmt.Sprintf("%s %d", n, counts[n]))
	}
	return strings.Join(out, ", ")
}
