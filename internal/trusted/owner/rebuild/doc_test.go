package rebuild_test

import (
	"os"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/trusted/owner/rebuild"
)

// TestDocExample parses the definition that docs/runtimes.md shows.
func TestDocExample(t *testing.T) {
	text, err := os.ReadFile("../../../../docs/runtimes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "\n```yaml\n")
	example, _, ok := strings.Cut(example, "\n```\n")
	if !ok {
		t.Fatal("the page shows no definition")
	}
	if _, err := rebuild.ParseDefinition([]byte(example)); err != nil {
		t.Errorf("%v\n%s", err, example)
	}
}
