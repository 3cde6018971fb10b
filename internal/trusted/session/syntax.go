package session

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"cupel.dev/cupel/api/problem"
)

// Limits of a session's text.
const (
	MaxSize  = 1 << 20 // bytes
	maxDepth = 32      // nested lists and mappings; the language needs 7
	maxList  = 2000    // entries of a list, but for arguments
	maxKey   = 200     // bytes; escaped, they still fit YAML's 1024 characters
)

// Tree reads one YAML document strictly and returns its root mapping: UTF-8, no
// anchors, aliases, tags, complex or duplicate keys, no second document.
// Refusals are *problem.Error with line and column.
func Tree(text []byte) (*yaml.Node, error) {
	if len(text) > MaxSize {
		return nil, problem.New(problem.Invalid, problem.RuleSessionSyntax, "the session has %d bytes", len(text)).
			Want("at most %d", MaxSize).Fix("give smaller values: what is large goes into the image, the repository or a volume")
	}

	if !utf8.Valid(text) {
		line, column := positionOfBadUTF8(text)
		return nil, problem.New(problem.Invalid, problem.RuleSessionSyntax, "line %d column %d: not UTF-8", line, column).
			Fix("save the file as UTF-8")
	}

	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, syntaxError(err)
	}

	var doc, second yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		return nil, problem.New(problem.Invalid, problem.RuleSessionSyntax, "line 1 column 1: the session is empty")
	case err != nil:
		return nil, syntaxError(err)
	}

	switch err := loader.Load(&second); {
	case err == nil:
		return nil, refusal(&second, problem.RuleSessionSyntax, "a second YAML document").Want("one document a file").Fix("remove the line ---")
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(err)
	}

	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, refusal(&doc, problem.RuleSessionSyntax, "the document is no mapping").Want("`name: …`, `version: …` and so on")
	}

	root := doc.Content[0]
	if err := checkNode(root, 1); err != nil {
		return nil, err
	}

	return root, nil
}

// checkNode refuses what YAML has and the language has not.
func checkNode(n *yaml.Node, depth int) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return refusal(n, problem.RuleSessionSyntax, "a YAML anchor or alias").Fix("write the value out")
	case n.Style&yaml.TaggedStyle != 0:
		return refusal(n, problem.RuleSessionSyntax, "a YAML tag").Fix("remove the tag; write a text that begins with ! in quotes")
	case strings.ContainsRune(n.Value, 0):
		return refusal(n, problem.RuleSessionSyntax, "a NUL character").Fix("remove it; put binary data into a secret of kind binary")
	case depth > maxDepth:
		return refusal(n, problem.RuleSessionSyntax, "nested more than %d deep", maxDepth)
	}

	if n.Kind == yaml.MappingNode {
		if err := checkKeys(n); err != nil {
			return err
		}
	}

	for _, c := range n.Content {
		if err := checkNode(c, depth+1); err != nil {
			return err
		}
	}

	return nil
}

func checkKeys(n *yaml.Node) error {
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]

		if key.Kind != yaml.ScalarNode || isNull(key) {
			return refusal(key, problem.RuleSessionSyntax, "a key that is no plain word")
		}

		if len(key.Value) > maxKey {
			return refusal(key, problem.RuleSessionSyntax, "a key of %d bytes", len(key.Value)).Want("at most %d", maxKey)
		}

		if first := seen[key.Value]; first != nil {
			return refusal(key, problem.RuleSessionDuplicateKey, "the key %q again", clip(key.Value)).
				Want("each key once; the first is at line %d", first.Line).Fix("remove one of the two")
		}

		seen[key.Value] = key
	}

	return nil
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Style == 0 && n.Tag == "!!null"
}

// refusal is an error at a node.
func refusal(n *yaml.Node, rule problem.Rule, format string, args ...any) *problem.Error {
	return problem.New(problem.Invalid, rule, "%s: %s", place(n), fmt.Sprintf(format, args...))
}

func place(n *yaml.Node) string { return fmt.Sprintf("line %d column %d", n.Line, n.Column) }

// syntaxError turns the YAML library's error into ours.
func syntaxError(err error) *problem.Error {
	message := "not YAML"
	line, column := 1, 1
	if le, ok := errors.AsType[*yaml.LoadError](err); ok {
		message = plainMessage(le.Message)

		for _, m := range []struct{ line, column int }{
			{le.Mark.Line, le.Mark.Column}, {le.ContextMark.Line, le.ContextMark.Column},
		} {
			if m.line > 0 {
				line, column = m.line, max(m.column, 1)
				break
			}
		}
	}

	return problem.New(problem.Invalid, problem.RuleSessionSyntax, "line %d column %d: %s", line, column, message).
		Fix("mend the YAML: check indentation, quotes and brackets at that place")
}

// plainMessage returns what the YAML library says, unless it quotes anything of
// the text but a character of YAML's own: that may be of a secret.
func plainMessage(s string) string {
	switch {
	case strings.HasPrefix(s, "unknown anchor"):
		return "an alias, which begins with *, to an anchor that is not there"
	case strings.ContainsAny(s, "\"`") || strings.Contains(yamlQuote.ReplaceAllString(s, ""), "'"):
		return "no YAML that can be read"
	}

	return s
}

// yamlQuote is a quoted character of YAML's own, as in "did not find expected ','".
var yamlQuote = regexp.MustCompile(`'[^'A-Za-z0-9]'`)

func positionOfBadUTF8(text []byte) (line, column int) {
	line, column = 1, 1

	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == utf8.RuneError && size == 1 {
			break
		}

		if column++; r == '\n' {
			line, column = line+1, 1
		}

		text = text[size:]
	}

	return line, column
}

func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
