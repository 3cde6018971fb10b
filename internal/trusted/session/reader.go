package session

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"cupel.dev/cupel/api/problem"
)

// reader turns the tree into a Session. The first refusal sticks; what is read
// after it is thrown away.
type reader struct {
	err     *problem.Error
	session *Session
	kinds   map[string]Kind // of the secrets, by name
}

func (r *reader) refuse(n *yaml.Node, rule problem.Rule, format string, args ...any) *problem.Error {
	p := refusal(n, rule, format, args...)
	if openVariable.MatchString(n.Value) && !strings.Contains(n.Value, "$$SCONE") {
		p.Fix("fill in the template variable that stands there")
	}

	if r.err == nil {
		r.err = p
	}

	return p
}

var openVariable = regexp.MustCompile(`^\$(\w+|\{\w+\})$`)

func (r *reader) warn(n *yaml.Node, text string) {
	r.session.Warnings = append(r.session.Warnings, place(n)+": "+text)
}

// fields are one mapping's values by key.
type fields struct {
	node   *yaml.Node
	values map[string]*yaml.Node
}

// mapping reads a mapping whose keys the section knows.
func (r *reader) mapping(n *yaml.Node, s *section) fields {
	f := fields{n, map[string]*yaml.Node{}}

	if n.Kind != yaml.MappingNode {
		r.refuse(n, ruleField, "the %s is no mapping", s.name).Want("keys of %s", strings.Join(s.keys, ", "))
		return f
	}

	for i := 0; i+1 < len(n.Content) && r.err == nil; i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case slices.Contains(s.keys, key.Value):
			f.values[key.Value] = value
		case slices.Contains(s.later, key.Value):
			r.refuse(key, ruleUnsupported, "the key %q of a %s is known to the SCONE language, but not supported yet", key.Value, s.name).
				Fix("remove it")
		default:
			known := append(slices.Clone(s.keys), s.later...)
			r.refuse(key, ruleUnknownKey, "the unknown key %s in a %s", shown(key.Value, known), s.name).
				Want("one like %s", strings.Join(nearest(key.Value, known), ", "))
		}
	}

	return f
}

func (f fields) has(key string) bool { return f.values[key] != nil }

// text returns a scalar as it was written; absent is "".
func (r *reader) text(f fields, key string) string {
	n := f.values[key]
	if n == nil {
		return ""
	}
	return r.scalar(n, key)
}

// required is text that must be there and not be empty.
func (r *reader) required(f fields, key, of string) string {
	n := f.values[key]
	if n == nil {
		r.refuse(f.node, ruleField, "a %s without %s", of, key).Fix("add `%s:`", key)
		return ""
	}

	v := r.scalar(n, key)
	if v == "" {
		r.refuse(n, ruleField, "%s is empty", key)
	}

	return v
}

func (r *reader) scalar(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode {
		r.refuse(n, ruleField, "%s is no single value", what)
		return ""
	}

	if isNull(n) {
		r.refuse(n, ruleField, "%s has no value", what).Fix("give one, or \"\" for the empty text, or remove the line")
		return ""
	}

	return n.Value
}

// word is text out of a list; absent is the fallback.
func (r *reader) word(f fields, key, fallback string, known ...string) string {
	n := f.values[key]
	if n == nil {
		return fallback
	}

	v := r.scalar(n, key)
	r.oneOf(n, key, v, known)
	return v
}

func (r *reader) oneOf(n *yaml.Node, key, v string, known []string) {
	switch {
	case slices.Contains(known, v):
	case slices.Contains(laterValues[key], v):
		r.refuse(n, ruleUnsupported, "%s %q is known to the SCONE language, but not supported yet", key, v).
			Want("one of %s", strings.Join(known, ", "))
	default:
		r.refuse(n, ruleField, "%s is %s", key, shown(v, known)).Want("one of %s", strings.Join(known, ", "))
	}
}

// shown is how a refusal speaks of a text that was written where it does not
// belong. People put secrets into the wrong line, and refusals end up on screens
// and in logs: it quotes nothing but a likely misspelling of a known word, and
// tells of anything else only how long it is. Place and key say where to look.
func shown(v string, known []string) string {
	misspelt := func(word string) bool {
		return len(v) > 2 && len(v) <= 2*len(word) && distance(strings.ToLower(v), strings.ToLower(word)) <= max(2, len(word)/2)
	}

	if slices.ContainsFunc(known, misspelt) {
		return strconv.Quote(v)
	}

	if n := utf8.RuneCountInString(v); n != 1 {
		return fmt.Sprintf("a text of %d characters", n)
	}

	return "a text of 1 character"
}

func (r *reader) boolean(f fields, key string) bool {
	return r.word(f, key, "false", "true", "false") == "true"
}

// number is a decimal within bounds.
func (r *reader) number(n *yaml.Node, key string, low, high int) int {
	v := r.scalar(n, key)

	i, err := strconv.Atoi(v)
	if err != nil || i < low || i > high || strconv.Itoa(i) != v {
		r.refuse(n, ruleField, "%s is %s", key, shown(v, nil)).Want("a number from %d to %d", low, high)
		return low
	}

	return i
}

// list returns a list's elements; absent or null is empty.
func (r *reader) list(f fields, key string) []*yaml.Node {
	n := f.values[key]
	switch {
	case n == nil || isNull(n):
		return nil
	case n.Kind != yaml.SequenceNode:
		r.refuse(n, ruleField, "%s is no list", key)
		return nil
	case len(n.Content) > maxList:
		r.refuse(n, ruleField, "%s has %d entries", key, len(n.Content)).Want("at most %d", maxList)
		return nil
	}
	return n.Content
}

// elements is list, where a single value may stand without the brackets.
func (r *reader) elements(f fields, key string) []*yaml.Node {
	if n := f.values[key]; n != nil && n.Kind == yaml.ScalarNode && !isNull(n) {
		return []*yaml.Node{n}
	}
	return r.list(f, key)
}

// once refuses a name that was there before.
func (r *reader) once(seen map[string]bool, n *yaml.Node, what, name string) {
	if seen[name] {
		r.refuse(n, ruleField, "a second %s called %q", what, clip(name)).Fix("rename or remove one of the two")
	}
	seen[name] = true
}

// at is the node to blame for a key: its value, or the mapping without it.
func (f fields) at(key string) *yaml.Node {
	if n := f.values[key]; n != nil {
		return n
	}
	return f.node
}
