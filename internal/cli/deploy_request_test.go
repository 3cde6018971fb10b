package cli

import (
	"strings"
	"testing"

	"cupel.dev/cupel/internal/trusted/owner"
	"cupel.dev/cupel/internal/trusted/problem"
)

// TestDeployOfAPinnedRef: a commit's id is the same in letters of either case; names and
// short ids are not.
func TestDeployOfAPinnedRef(t *testing.T) {
	small, capitals := strings.Repeat("ab", 20), strings.Repeat("AB", 20)
	for _, c := range []struct {
		record, ref string
		refused     bool
	}{
		{record: small, ref: small},
		{record: small, ref: capitals},
		{record: capitals, ref: small}, // as an earlier release kept it
		{record: "main", ref: "main"},
		{record: "main"},
		{record: small, ref: strings.Repeat("ac", 20), refused: true},
		{record: "main", ref: "Main", refused: true},
		{record: "", ref: "main", refused: true},
	} {
		err := pins("shop", owner.SessionRecord{Ref: c.record}, c.ref)
		if (err != nil) != c.refused || err != nil && problem.From(err).Rule != "ref" {
			t.Errorf("%q of %q: %v", c.ref, c.record, err)
		}
	}
}
