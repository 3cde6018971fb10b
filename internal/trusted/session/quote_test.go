package session

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
	"go.yaml.in/yaml/v4"
)

// pasted is a secret that a person put into the wrong line.
const pasted = "ghp-Zq9xWv7T"

// spellings are ways in which it may stand there: as plain text, as what YAML or
// the language takes for something else, and as broken YAML.
var spellings = []string{
	pasted, `"` + pasted + ` with blanks"`, "'" + pasted + "=1'", "/" + pasted, "//" + pasted, "/proc/" + pasted, "0." + pasted, pasted + ".example",
	"$$SCONE::" + pasted + "$$", "$$SCONE::" + pasted, "$$SCONE:" + pasted, "$$SCONE::" + pasted + ":" + pasted + "|" + pasted + "$$", "$$SCONE::a b" + pasted + "$$",
	"$$SCONE::token:" + pasted + "$$", "$$SCONE::token|" + pasted + "$$", "@@0" + pasted, `"@@1` + pasted + `"`, "simulation:" + pasted, "0o" + pasted, "12 " + pasted,
	"!" + pasted, "!!" + pasted + " x", "*" + pasted, "&" + pasted + " x", `"` + pasted, "'" + pasted, "{" + pasted, "[" + pasted, "%" + pasted, "`" + pasted,
	"@" + pasted, pasted + ": " + pasted, "|\n" + pasted, "[" + pasted + "]", "[[" + pasted + "]]", `"\q` + pasted + `"`, "\"\\u00" + pasted + "\"", "\"\\0" + pasted + "\"",
	"- " + pasted, "? " + pasted, "!<" + pasted, "!a!" + pasted, "\t" + pasted,
	`"-----BEGIN PRIVATE KEY-----\n` + pasted + `\n-----END PRIVATE KEY-----"`, strings.Repeat(pasted, 10), strings.Repeat(pasted, 100),
}

// planted calls f with the text of a session for each value in it, and most of the
// spellings that can stand in its place, others at each: so many, or all for 0.
func planted(t *testing.T, text string, most int, f func(where string, text []byte)) {
	t.Helper()
	const place = "PLACE_OF_IT"
	for i := 0; ; i++ {
		root, err := Tree([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		count, where := 0, ""
		eachValue(root, func(n *yaml.Node) {
			if count == i {
				where = n.Value
				n.Value, n.Tag, n.Style = place, "!!str", 0
			}
			count++
		})
		if i >= count {
			return
		}
		var b strings.Builder
		writeObject(&b, written(root).(object), "", "")
		some := spellings
		if most > 0 {
			some = nil
			for k := range most {
				some = append(some, spellings[(i*most+k)%len(spellings)])
			}
		}
		for _, s := range some {
			f(where+" -> "+s, []byte(strings.Replace(b.String(), place, s, 1)))
		}
	}
}

// leaks reports whether anything of err that anybody may be shown holds the text.
func leaks(err error, text string) bool {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if strings.Contains(e.Error(), text) {
			return true
		}
	}
	if err == nil {
		return false
	}
	b, jsonErr := json.Marshal(problem.From(err))
	return jsonErr != nil || strings.Contains(string(b), text)
}

// TestRefusalsQuoteNoValue: whatever line a secret was put into, no refusal and
// no warning shows it. Keys and the names of template variables are quoted: there
// is no other way to speak of them.
func TestRefusalsQuoteNoValue(t *testing.T) {
	texts := map[string]string{"full": full, "small": small}
	files, err := filepath.Glob("testdata/corpus/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[file] = string(b)
	}
	for name, text := range texts {
		most := 1
		switch name {
		case "full":
			most = 6
			if quickSize < MaxSize { // under the race detector
				most = 1
			}
		case "small":
			most = 0
		}
		refused := 0
		planted(t, text, most, func(where string, text []byte) {
			s, err := Parse(text)
			if err != nil {
				refused++
			} else if strings.Contains(strings.Join(s.Warnings, "\n"), pasted) {
				t.Errorf("%s: %s: a warning shows it: %q", name, where, s.Warnings)
			}
			if leaks(err, pasted) {
				t.Errorf("%s: %s: %v", name, where, err)
			}
			filled := func(string) (secret.Value, bool) { return secret.NewString("host"), true }
			if _, err := ParseFilled(text, filled); leaks(err, pasted) {
				t.Errorf("%s: %s: filled: %v", name, where, err)
			}
			if _, err := Fill(text, func(string) (secret.Value, bool) { return secret.Value{}, false }); leaks(err, pasted) {
				t.Errorf("%s: %s: not filled: %v", name, where, err)
			}
			if _, err := Variables(text); leaks(err, pasted) {
				t.Errorf("%s: %s: variables: %v", name, where, err)
			}
		})
		if refused == 0 {
			t.Errorf("%s: nothing was refused", name)
		}
	}
}

// TestFilledValuesAreNotQuoted: what fills a variable in is as little shown as
// what stands in the text.
func TestFilledValuesAreNotQuoted(t *testing.T) {
	root, err := Tree([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	eachValue(root, func(*yaml.Node) { count++ })
	for i := range count {
		template, err := Tree([]byte(full))
		if err != nil {
			t.Fatal(err)
		}
		k := 0
		eachValue(template, func(n *yaml.Node) {
			if k == i {
				n.Value, n.Tag, n.Style = "$X", "!!str", 0
			}
			k++
		})
		var b strings.Builder
		writeObject(&b, written(template).(object), "", "")
		for j := range 4 {
			value := spellings[(4*i+j)%len(spellings)]
			fill := func(string) (secret.Value, bool) { return secret.NewString(value), true }
			if _, err := ParseFilled([]byte(b.String()), fill); leaks(err, pasted) {
				t.Errorf("value %d filled with %q: %v", i, value, err)
			}
		}
	}
}
