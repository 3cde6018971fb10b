package cli

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var flagWord = regexp.MustCompile("[` ]--([a-z][a-z-]*)")

// TestDocs: docs/cli.md has a section for every command, with an example, and
// names no flag that there isn't.
func TestDocs(t *testing.T) {
	b, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, part := range strings.Split(string(b), "\n### ")[1:] {
		title, text, _ := strings.Cut(part, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		sections[title] = text
	}
	commands := map[string]bool{}
	eachCommand(func(c *cobra.Command) {
		if !c.HasParent() {
			return
		}
		path := c.CommandPath()
		commands[path] = true
		text, ok := sections[path]
		switch {
		case !ok:
			t.Errorf("docs/cli.md has no section %q", path)
			return
		case !c.HasSubCommands() && !strings.Contains(text, "```sh\n"):
			t.Errorf("the section %q of docs/cli.md has no example", path)
		}
		for _, flag := range flagWord.FindAllStringSubmatch(text, -1) {
			if c.Flags().Lookup(flag[1]) == nil && c.InheritedFlags().Lookup(flag[1]) == nil {
				t.Errorf("the section %q of docs/cli.md names --%s, which there is not", path, flag[1])
			}
		}
	})
	for path := range sections {
		if !commands[path] {
			t.Errorf("docs/cli.md has a section %q of no command", path)
		}
	}
}
