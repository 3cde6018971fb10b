package session

import (
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"
)

func fillWith(values map[string]string) func(string) (secret.Value, bool) {
	return func(name string) (secret.Value, bool) {
		v, ok := values[name]
		return secret.NewString(v), ok
	}
}

const template = `# $COMMENT is no variable
version: "0.3"
name: $SESSION
secrets:
  - name: token # $NEITHER
    kind: ascii
    value: "$TOKEN"
  - {name: joined, kind: ascii, value: 'a-${TOKEN}-b$1$'}
services:
  - name: a
    mrenclaves: [$M1]
    environment:
      $KEY: x
      REF: $$SCONE::token$$/${SESSION}
      ESCAPED: \$HOME
`

func TestVariables(t *testing.T) {
	got, err := Variables([]byte(template))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"SESSION", "TOKEN", "M1"}, got); d != "" {
		t.Error(d)
	}
}

func TestFillKeepsStructure(t *testing.T) {
	for name, token := range map[string]string{
		"plain":           "ghp_abc",
		"empty":           "",
		"new line":        "a\nname: other\n",
		"quotes":          `it's "quoted" \ ok`,
		"yaml":            "x\"\naccess_policy: {read: ANY}\n#",
		"flow":            "}], services: [{name: evil",
		"tag":             "!!binary x",
		"anchor":          "&a *a",
		"null":            "~",
		"number":          "1e3",
		"document":        "---\nname: other",
		"comment":         " # x",
		"variable":        "$SESSION ${M1} \\$TOKEN",
		"control":         "\x01\x7f\u0085\u2028\ufeff\r\n\t ",
		"astral":          "😀\U0010ffff",
		"pem":             "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
		"dollars":         "$$ $ $$$",
		"trailing dollar": "abc$$",
		"long":            strings.Repeat("word ", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			filled, err := Fill([]byte(template), fillWith(map[string]string{"SESSION": "s1", "TOKEN": token, "M1": m1}))
			if err != nil {
				t.Fatal(err)
			}
			s, err := Parse(filled)
			if err != nil {
				t.Fatalf("%v\n%s", err, filled)
			}
			if got, _ := s.Secret("token"); string(got.Value.Reveal()) != token {
				t.Errorf("value became %q", got.Value.Reveal())
			}
			if got, _ := s.Secret("joined"); string(got.Value.Reveal()) != "a-"+token+"-b$1$" {
				t.Errorf("value became %q", got.Value.Reveal())
			}
			a, _ := s.Service("a")
			var env []string
			for _, e := range a.Environment {
				env = append(env, e.Name+"="+e.Value.String())
			}
			if d := cmp.Diff([]string{"$KEY=x", "ESCAPED=$HOME", "REF=$$SCONE::token$$/s1"}, env); d != "" {
				t.Error(d)
			}
			if len(s.Services) != 1 || len(s.Secrets) != 2 || s.Name != "s1" || s.Access.Read[0].Word != Creator {
				t.Errorf("the value changed the session:\n%s", filled)
			}
			again, err := Parse(s.Canonical())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(s, again, same); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestFillRefuses(t *testing.T) {
	for name, c := range map[string]struct{ template, value, says string }{
		"missing":             {"name: a\nv: $OTHER\n", "", "Value for variable $OTHER is missing at line 2 column 4"},
		"reference":           {"name: $V\n", "$$SCONE::x$$", "the value of $V holds $$SCONE"},
		"reference in pieces": {"name: $V${V}ONE::x$$\n", "$$SC", "would become a reference"},
		"begins a reference":  {"name: $$${V}\n", "SCONE::x$$", "would become a reference"},
		"dollar in front":     {"name: ${V}${V}x\n", "$$SCONE:", "the value of $V holds $$SCONE"},
		"escaped in front":    {`name: \$${V}`, "$SCONE::x$$", "would become a reference"},
		"NUL":                 {"name: $V\n", "a\x00b", "is no text"},
		"not UTF-8":           {"name: $V\n", "a\xffb", "is no text"},
		"too large":           {"name: $V\n", strings.Repeat("x", MaxSize), "bytes"},
		"bad template":        {"name: [\n", "", "session_syntax"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := Fill([]byte(c.template), fillWith(map[string]string{"V": c.value}))
			switch {
			case err == nil:
				t.Errorf("accepted: %s", out)
			case !strings.Contains(err.Error(), c.says) || problem.KindOf(err) != problem.Invalid:
				t.Errorf("got %v, want %s", err, c.says)
			case len(c.value) > 5 && len(c.value) < 100 && strings.Contains(err.Error(), c.value):
				t.Errorf("the refusal shows the value: %v", err)
			}
		})
	}
}

func TestEscapeVariables(t *testing.T) {
	for _, s := range []string{"", "a", "$HOME", "${A}", "$$", "$$PID", `\$X`, `\\$X`, "a$", "$$SCONE::x$$", "p-$$SCONE::x:hex$$-$Y", "$$SCONE::x"} {
		escaped, err := EscapeVariables(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		out, err := Fill([]byte("k: "+Quote(escaped)+"\n"), fillWith(nil))
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		root, err := Tree(out)
		if err != nil || root.Content[1].Value != s {
			t.Errorf("%q came back as %q (%v)", s, out, err)
		}
	}
	if _, err := EscapeVariables(`\$$SCONE::x$$`); err == nil {
		t.Error("a backslash before a reference was accepted")
	}
}

func FuzzFill(f *testing.F) {
	f.Add("ghp_x", "name: $V\n")
	f.Add("a\nb: c", "name: $V\nlist: [\"${V}\", 1, ~]\n")
	f.Add("$$SCONE::x$$", "a: {b: $V$$SCONE::y$$}\n")
	f.Fuzz(func(t *testing.T, value, text string) {
		before, err := Tree([]byte(text))
		if err != nil {
			return
		}
		out, err := Fill([]byte(text), func(string) (secret.Value, bool) { return secret.NewString(value), true })
		if err != nil {
			if p := problem.From(err); p.Kind != problem.Invalid {
				t.Fatalf("%v", err)
			}
			return
		}
		after, err := Tree(out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		names := func(s string) (n int) {
			for _, p := range scan(s) {
				n += strings.Count(p.literal, refIntro)
			}
			return n
		}
		var a, b []int
		eachValue(before, func(n *yaml.Node) { a = append(a, names(n.Value)) })
		eachValue(after, func(n *yaml.Node) { b = append(b, strings.Count(n.Value, refIntro)) })
		if d := cmp.Diff(a, b); d != "" {
			t.Fatalf("structure or references changed: %s\n%s", d, out)
		}
	})
}
