package session

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/secret"
	"go.yaml.in/yaml/v4"
)

// piece is a part of a scalar in a template: a literal, or a variable's name.
type piece struct{ literal, variable string }

var variableName = regexp.MustCompile(`^(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})`)

// scan splits a scalar's text. `\$` stands for a dollar; $$SCONE::…$$ passes
// through as a whole.
func scan(s string) []piece {
	var out []piece
	var literal strings.Builder

	flush := func() {
		if literal.Len() > 0 {
			out = append(out, piece{literal: literal.String()})
			literal.Reset()
		}
	}

	for s != "" {
		switch {
		case strings.HasPrefix(s, `\$`):
			literal.WriteByte('$')
			s = s[2:]
			continue
		case strings.HasPrefix(s, refOpen):
			if end := strings.Index(s[len(refOpen):], refClose); end >= 0 {
				end += len(refOpen) + len(refClose)
				literal.WriteString(s[:end])
				s = s[end:]
				continue
			}
		case s[0] == '$':
			if m := variableName.FindStringSubmatch(s[1:]); m != nil {
				flush()
				out = append(out, piece{variable: m[1] + m[2]})
				s = s[1+len(m[0]):]
				continue
			}
		}

		literal.WriteByte(s[0])
		s = s[1:]
	}

	flush()
	return out
}

// EscapeVariables writes s so that Fill gives back s: dollars outside of
// references are escaped. It refuses the one text for which that is impossible,
// a backslash right before a reference.
func EscapeVariables(s string) (string, error) {
	var b strings.Builder
	for rest := s; rest != ""; {
		if strings.HasPrefix(rest, refOpen) {
			if end := strings.Index(rest[len(refOpen):], refClose); end >= 0 {
				end += len(refOpen) + len(refClose)
				b.WriteString(rest[:end])
				rest = rest[end:]
				continue
			}
		}

		if rest[0] == '$' {
			b.WriteByte('\\')
		}

		b.WriteByte(rest[0])
		rest = rest[1:]
	}

	pieces := scan(b.String())
	if len(pieces) > 1 || len(pieces) == 1 && pieces[0].literal != s {
		return "", fmt.Errorf("a backslash before $$SCONE::…$$ can't be written in a template")
	}

	return b.String(), nil
}

// Variables returns the names of the template variables $NAME and ${NAME} in
// the values of a template, in the order in which they first stand.
func Variables(text []byte) ([]string, error) {
	root, err := Tree(text)
	if err != nil {
		return nil, err
	}

	var names []string
	eachValue(root, func(n *yaml.Node) {
		for _, p := range scan(n.Value) {
			if p.variable != "" && !slices.Contains(names, p.variable) {
				names = append(names, p.variable)
			}
		}
	})

	return names, nil
}

// eachValue visits every scalar that is no key.
func eachValue(n *yaml.Node, visit func(*yaml.Node)) {
	switch n.Kind {
	case yaml.ScalarNode:
		visit(n)
	case yaml.MappingNode:
		for i := 1; i < len(n.Content); i += 2 {
			eachValue(n.Content[i], visit)
		}
	default:
		for _, c := range n.Content {
			eachValue(c, visit)
		}
	}
}

// Fill replaces the template variables in the values (never in keys) and
// returns the session's text. A value becomes text in the place where its
// variable stands, whatever it holds: it can't become structure, and one that
// would make a reference $$SCONE::…$$ is refused. A variable that value does
// not know is an error with line and column. What Fill returns holds secrets.
func Fill(text []byte, value func(name string) (secret.Value, bool)) ([]byte, error) {
	root, err := fillTree(text, value)
	if err != nil {
		return nil, err
	}

	var b strings.Builder
	if o, _ := written(root).(object); len(o) > 0 {
		b.WriteString("---\n")
		writeObject(&b, o, "", "")
	} else {
		b.WriteString("{}\n")
	}

	out := []byte(b.String())

	again, err := Tree(out)
	if p, ok := errors.AsType[*problem.Error](err); ok && len(out) > MaxSize {
		return nil, p
	}

	if err != nil || !sameTree(root, again) {
		return nil, problem.New(problem.Internal, ruleVariable, "the filled session does not read back as it was written").
			Fix("report this as a bug, with the template and without the values")
	}

	return out, nil
}

// ParseFilled is Parse of what Fill returns, with the places of the template in
// its refusals.
func ParseFilled(text []byte, value func(name string) (secret.Value, bool)) (*Session, error) {
	root, err := fillTree(text, value)
	if err != nil {
		return nil, err
	}
	return parseTree(root)
}

func fillTree(text []byte, value func(string) (secret.Value, bool)) (*yaml.Node, error) {
	root, err := Tree(text)
	if err != nil {
		return nil, err
	}

	var refused error
	eachValue(root, func(n *yaml.Node) {
		if refused == nil {
			refused = fillNode(n, value)
		}
	})

	return root, refused
}

// CheckValue refuses what can't be the value of a variable, whatever the template; what
// says in words which value it is.
func CheckValue(what string, v secret.Value) error {
	raw := v.Reveal()
	if !utf8.Valid(raw) || slices.Contains(raw, 0) {
		return problem.New(problem.Invalid, ruleVariable, "%s is no text", what).Want("UTF-8 without NUL").
			Fix("give it in another form, such as base64")
	}

	if bytes.Contains(raw, []byte(refIntro)) {
		return problem.New(problem.Invalid, ruleVariable, "%s holds $$SCONE, which in a session begins a reference to a secret", what).
			Want("text without $$SCONE; any other, with single dollars too, arrives as it is").
			Fix("give it in another form, such as base64, or have the program put $$SCONE together itself")
	}

	return nil
}

func fillNode(n *yaml.Node, value func(string) (secret.Value, bool)) error {
	pieces := scan(n.Value)
	if len(pieces) == 0 || len(pieces) == 1 && pieces[0].literal == n.Value {
		return nil
	}

	var b strings.Builder
	var filled []string
	references := 0

	for _, p := range pieces {
		if p.variable == "" {
			references += strings.Count(p.literal, refIntro)
			b.WriteString(p.literal)
			continue
		}

		v, ok := value(p.variable)
		if !ok {
			return problem.New(problem.Invalid, ruleVariable, "Value for variable $%s is missing at %s", p.variable, place(n)).
				Fix("give it with -e %s=VALUE", p.variable)
		}

		if err := CheckValue("the value of $"+p.variable, v); err != nil {
			return err
		}

		filled = append(filled, "$"+p.variable)
		b.Write(v.Reveal())
	}

	if strings.Count(b.String(), refIntro) != references {
		return refusal(&yaml.Node{Line: n.Line, Column: n.Column}, ruleVariable,
			"what stands around the value of %s would become a reference to a secret with it", strings.Join(filled, " and ")).
			Want("no $$SCONE that values make").Fix("give a value that neither begins nor ends with a piece of $$SCONE, or mend the template there")
	}

	n.Value = b.String()
	n.Tag = "!!str"
	n.Style = yaml.DoubleQuotedStyle
	return nil
}

// written turns a tree into what the canonical writer knows; comments and
// styles are lost, every scalar but null is text.
func written(n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		var o object
		for i := 0; i+1 < len(n.Content); i += 2 {
			o = append(o, member{n.Content[i].Value, written(n.Content[i+1])})
		}
		return o
	case yaml.SequenceNode:
		var l list
		for _, c := range n.Content {
			l = append(l, written(c))
		}
		return l
	}

	if isNull(n) {
		return plain("~")
	}

	return n.Value
}

// sameTree compares kinds, scalar types and values.
func sameTree(a, b *yaml.Node) bool {
	if a.Kind != b.Kind || isNull(a) != isNull(b) || !isNull(a) && a.Value != b.Value || len(a.Content) != len(b.Content) {
		return false
	}

	for i := range a.Content {
		if !sameTree(a.Content[i], b.Content[i]) {
			return false
		}
	}

	return true
}
