package reference_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/owner/reference"
	"cupel.dev/cupel/internal/trusted/owner/template"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/session"
)

// TestKept: an update keeps the same packages under the launcher before, and
// nothing else that the current version happens to list.
func TestKept(t *testing.T) {
	lock, olderLock, definition := ident.Digest{1}, ident.Digest{2}, ident.Digest{3}
	known := []reference.Value{
		{Measurement: ident.Measurement{0xa1}, Runtime: "python", Definition: definition, Lock: lock, Launcher: ident.Digest{1}},
		{Measurement: ident.Measurement{0xa2}, Runtime: "python", Definition: definition, Lock: lock, Launcher: ident.Digest{2}},
		{Measurement: ident.Measurement{0xb1}, Runtime: "python", Definition: definition, Lock: olderLock, Launcher: ident.Digest{1}},
		{Measurement: ident.Measurement{0xc1}, Runtime: "node", Definition: definition, Lock: lock, Launcher: ident.Digest{1}},
	}
	in := template.Inputs{
		Runtime: "python",
		Command: "python3 app.py",
		Measurements: map[ident.ServiceName]ident.Measurement{
			template.PullService: {0xdd},
			template.AppService:  {0xa1},
		},
		// Older packages, another runtime, and what nobody vouched for.
		Also: map[ident.ServiceName][]ident.Measurement{template.AppService: {{0xb1}, {0xc1}, {0xee}}},
	}
	text, err := template.Render(in)
	if err != nil {
		t.Fatal(err)
	}
	current, err := session.ParseFilled(text, func(name string) (secret.Value, bool) { return secret.NewString(strings.ToLower(name)), true })
	if err != nil {
		t.Fatal(err)
	}

	now := map[ident.ServiceName]ident.Measurement{template.PullService: {0xdd}, template.AppService: {0xa2}}
	want := map[ident.ServiceName][]ident.Measurement{template.AppService: {{0xa1}}}
	if d := cmp.Diff(want, reference.Kept(current, known, now)); d != "" {
		t.Error(d)
	}
	now[template.AppService] = ident.Measurement{0xa1}
	if got := reference.Kept(current, known, now); len(got) != 0 {
		t.Errorf("without a new launcher it keeps %v", got)
	}
}
