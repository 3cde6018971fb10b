package owner

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/trusted/problem"
)

// TestPullInputs reads the table that the puller's own test reads too.
func TestPullInputs(t *testing.T) {
	b, err := os.ReadFile("testdata/pull_inputs.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct{ What, Value, Refused string }
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	checks := map[string]func(string) error{
		"repository": CheckRepository, "token": CheckToken, "user": CheckUser, "proxy": CheckProxy, "ref": CheckRef,
	}
	for _, c := range cases {
		err := checks[c.What](c.Value)
		switch {
		case c.Refused == "" && err != nil, c.Refused != "" && err == nil:
			t.Errorf("%s %q: %v", c.What, c.Value, err)
		case err == nil:
		case !strings.Contains(said(err), c.Refused):
			t.Errorf("%s %q: %q doesn't say %q", c.What, c.Value, said(err), c.Refused)
		case problem.From(err).Mend == "" || problem.KindOf(err) != problem.Invalid:
			t.Errorf("%s %q: %+v", c.What, c.Value, problem.From(err))
		case c.What != "ref" && len(c.Value) > 8 && strings.Contains(said(err), c.Value):
			t.Errorf("%s: %q repeats what was given", c.What, said(err))
		}
	}
}

// said is all that a person reads of a refusal.
func said(err error) string {
	p := problem.From(err)
	return p.Actual + "; " + p.Expected + "; " + p.Mend
}
