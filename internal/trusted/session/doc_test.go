package session

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/trusted/secret"
)

// TestDocExamples parses every example of docs/session.md. One that shows a part
// of a session alone is completed with what every session needs.
func TestDocExamples(t *testing.T) {
	text, err := os.ReadFile("../../../docs/session.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := strings.Split(string(text), "\n```yaml\n")[1:]
	if len(examples) < 5 {
		t.Fatalf("found %d examples: the page or this test has changed", len(examples))
	}
	for i, e := range examples {
		t.Run(strconv.Itoa(i+1), func(t *testing.T) {
			example, _, ok := strings.Cut(e, "\n```\n")
			if !ok {
				t.Fatal("the example has no end")
			}
			if !strings.Contains(example, "version:") {
				example = "version: \"0.3\"\nname: example\n" + example
			}
			s, err := ParseFilled([]byte(example), func(name string) (secret.Value, bool) {
				return secret.NewString("value of " + name), true
			})
			if err != nil {
				t.Fatalf("%v\n%s", err, example)
			}
			if len(s.Warnings) > 0 {
				t.Errorf("warnings: %q", s.Warnings)
			}
			if _, err := Parse(s.Canonical()); err != nil {
				t.Errorf("the canonical form: %v", err)
			}
		})
	}
}
