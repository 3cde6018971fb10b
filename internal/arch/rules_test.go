package arch

import (
	"go/ast"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var quotedRule = regexp.MustCompile("`([^`]+)`")

// TestPagesNameRulesThatAre: each rule that a page's table explains is one that the
// program says.
func TestPagesNameRulesThatAre(t *testing.T) {
	root := filepath.Join("..", "..")
	said := map[string]bool{}
	eachFile(t, root, func(_ string, _ *token.FileSet, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				addLiteral(said, e)
			}
			return true
		})
	})
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, page := range pages {
		inTable := false
		for line := range strings.Lines(read(t, page)) {
			cells := strings.Split(line, "|")
			switch {
			case len(cells) < 3:
				inTable = false
			case strings.TrimSpace(cells[1]) == "rule":
				inTable = true
			case inTable:
				for _, rule := range quotedRule.FindAllStringSubmatch(cells[1], -1) {
					if named++; !said[rule[1]] {
						t.Errorf("%s explains the rule %s, which nothing says", page, rule[1])
					}
				}
			}
		}
	}
	if named < 100 {
		t.Errorf("%d rules in the tables: the test doesn't read what it should", named)
	}
}
