package template

import (
	"encoding/json"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/session"
)

// TestDifferencesQuoteNoSecret fills in every value of a template by hand, one at
// a time, as a person does who doesn't know -e: whatever line it was, nothing that
// is printed shows it.
func TestDifferencesQuoteNoSecret(t *testing.T) {
	const token = "ghp_R7kQ2mZx9LwT4vBn8sYd3cFh6jPa1gEu5iKo"
	pem := "-----BEGIN PRIVATE KEY-----\n" + token + "\n-----END PRIVATE KEY-----\n"
	in := owners()
	in.Simulation, in.Ref = &simRoot, "main"
	theirs := inputs()
	theirs.Simulation, theirs.Ref = &simRoot, "main"
	clean, err := Render(theirs)
	if err != nil {
		t.Fatal(err)
	}
	accepts, err := AcceptValues(known, nil)
	if err != nil {
		t.Fatal(err)
	}

	values := []string{token, "Bearer " + token, "https://me:" + token + "@git.example/app.git", pem, "$$SCONE::" + token + "$$", "/" + token + " x"}
	for i, more := 0, true; more; i++ {
		for _, value := range []string{token, values[1+i%(len(values)-1)]} {
			root, err := session.Tree(clean)
			if err != nil {
				t.Fatal(err)
			}
			place := fillIn(root, i, value)
			if more = place != ""; !more {
				break
			}
			text, err := yaml.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}

			r, err := Review(text, in, accepts)
			if err == nil {
				err = Refuse(r.Differences)
				if b, jsonErr := json.Marshal(r.Differences); jsonErr != nil || strings.Contains(string(b), token) {
					t.Errorf("%s as JSON: %s", place, b)
				}
			}
			if err == nil {
				t.Errorf("%s: accepted with %q", place, value)
				continue
			}
			b, jsonErr := json.Marshal(problem.From(err))
			if jsonErr != nil || strings.Contains(err.Error(), token) || strings.Contains(string(b), token) {
				t.Errorf("%s: %v", place, err)
			}
		}
	}
}

// fillIn replaces the value with this number, and returns what stood there; ""
// where there are not so many.
func fillIn(n *yaml.Node, number int, value string) (before string) {
	var visit func(n *yaml.Node)
	visit = func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode {
			if number--; number == -1 {
				before = n.Value
				n.Value, n.Tag, n.Style = value, "!!str", yaml.DoubleQuotedStyle
			}
			return
		}
		for i, c := range n.Content {
			if n.Kind != yaml.MappingNode || i%2 == 1 {
				visit(c)
			}
		}
	}
	visit(n)
	return before
}

// TestFilledByHand: what the person is told instead.
func TestFilledByHand(t *testing.T) {
	for variable, want := range map[string]string{
		VarToken:   "secrets[access_token].value: expected \"$ACCESS_TOKEN\", the file has another text (18 characters, not shown); leave `$ACCESS_TOKEN` there, and give the value with -e ACCESS_TOKEN=@FILE, or with -e ACCESS_TOKEN alone, which asks for it",
		VarRepo:    "leave `$GIT_REPO` there, and give the value with -e GIT_REPO=VALUE",
		VarSession: "leave `$SESSION` there, and give the value with --name NAME",
	} {
		text := strings.Replace(operators(t), "$"+variable, "ghp_MYREALTOKEN123", 1)
		err := Refuse(review(t, text, owners()).Differences)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", variable, err, want)
		}
	}
}
