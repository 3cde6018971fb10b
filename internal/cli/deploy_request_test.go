package cli

import (
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/home"
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
		err := checkRef("shop", home.SessionRecord{Ref: c.record}, c.ref)
		if (err != nil) != c.refused || err != nil && problem.From(err).Rule != "ref" {
			t.Errorf("%q of %q: %v", c.ref, c.record, err)
		}
	}
}

// TestPortsThatCantBe: what was typed is repeated whole, and who gives an address learns
// that there is none to give.
func TestPortsThatCantBe(t *testing.T) {
	const numbers, alone = "for instance --port 8080", "can't be chosen: give the port alone, as in --port 33150"
	for text, mend := range map[string]string{
		"33150:": numbers, ":8080": numbers, ":": numbers, "0": numbers, "80:0": numbers, "65536": numbers, "80:81:82": numbers, "x": numbers,
		"0.0.0.0:33150": alone, "1.2.3.4:": "alone, as in --port 8080", "1.2.3.4:999999": "alone, as in --port 8080", "[::1]:33150": alone, "app.example.org:33150": alone,
	} {
		_, _, err := parsePorts(text)
		if p := problem.From(err); p == nil || p.Rule != "port" || p.Actual != `--port "`+text+`"` || !strings.Contains(p.Mend, mend) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if public, container, err := parsePorts("443:8443"); public != 443 || container != 8443 || err != nil {
		t.Errorf("443:8443: %d, %d, %v", public, container, err)
	}
}

// TestSessionNamesThatCantBe: what surrounds a name is said to be what is wrong with it.
func TestSessionNamesThatCantBe(t *testing.T) {
	for text, mend := range map[string]string{
		" my-app": "leave out the blanks and slashes", "my-app/": "leave out the blanks and slashes", "//my-app": "leave out the blanks and slashes",
		"a b": "give the name under which", "": "give the name under which", "a//b": "give the name under which",
	} {
		_, err := parseSessionArg(text)
		if p := problem.From(err); p == nil || p.Rule != "session_name" || !strings.Contains(p.Mend, mend) || strings.Contains(p.Actual, " 0 characters: want elements") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
