package arch

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

var (
	fence    = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	codeSpan = regexp.MustCompile("`[^`\n]*`")
	heading  = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
	mdLink   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	inTitle  = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	anchor   = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
)

// TestLinks: whatever file or section the documentation leads to is there.
func TestLinks(t *testing.T) {
	root := filepath.Join("..", "..")
	pages := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && strings.HasPrefix(e.Name(), ".") && path != root {
			return fs.SkipDir
		}
		if e.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		pages++
		text := codeSpan.ReplaceAllString(fence.ReplaceAllString(read(t, path), ""), "")
		for _, found := range mdLink.FindAllStringSubmatch(text, -1) {
			if why := broken(t, path, found[1]); why != "" {
				t.Errorf("%s leads to %s: %s", path, found[1], why)
			}
		}
		return nil
	})
	if err != nil || pages < 10 {
		t.Errorf("%d pages, %v", pages, err)
	}
	for _, link := range []string{"none.md", "#none", "docs/none.md#ports", "docs/operate.md#none", "docs/operate.md#"} {
		if broken(t, filepath.Join(root, "README.md"), link) == "" {
			t.Errorf("%s counts as a link to what is there", link)
		}
	}
}

// broken says what is wrong with a link of a page; "": nothing.
func broken(t *testing.T, page, link string) string {
	if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
		return ""
	}
	file, section, anchored := strings.Cut(link, "#")
	if file != "" {
		page = filepath.Join(filepath.Dir(page), file)
	}
	if _, err := os.Stat(page); err != nil {
		return "no such file"
	}
	if anchored && !sections(read(t, page))[section] {
		return "no such section"
	}
	return ""
}

// sections are the anchors of a page, as GitHub makes them of its headings.
func sections(text string) map[string]bool {
	out := map[string]bool{}
	text = fence.ReplaceAllString(text, "")
	for _, found := range anchor.FindAllStringSubmatch(text, -1) {
		out[found[1]] = true
	}
	for _, found := range heading.FindAllStringSubmatch(text, -1) {
		title := inTitle.ReplaceAllString(found[1], "$1")
		slug := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsNumber(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, title)
		again := slug
		for i := 1; out[again]; i++ {
			again = slug + "-" + strconv.Itoa(i)
		}
		out[again] = true
	}
	return out
}

// TestSections holds how a section's anchor is made.
func TestSections(t *testing.T) {
	got := sections("# A `b`, c: d!\n\n```\n# not this\n```\n## Twice\n## Twice\n### [Named](x.md) it's_so – ü\n<a id=\"own\"></a>\n")
	for _, want := range []string{"a-b-c-d", "twice", "twice-1", "named-its_so--ü", "own"} {
		if !got[want] {
			t.Errorf("%q is not among %v", want, got)
		}
	}
	if got["not-this"] || len(got) != 5 {
		t.Errorf("sections %v", got)
	}
}
