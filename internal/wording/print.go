package wording

import (
	"cmp"
	"fmt"
	"io"

	"cupel.dev/cupel/api/problem"
)

// Style is how a program shows texts to a person. Its zero value shows them as they are.
type Style struct {
	Rule     func(string) string // paints a rule's name
	Writable func(string) string // replaces what the terminal's locale can't show
}

// Print shows a refusal to a person: the program, whose word it is, the rule and what it met
// in one line, and below it what was expected, how to mend it, and the request's id.
func Print(w io.Writer, program string, p *problem.Error, s Style) {
	paint, writable := orSame(s.Rule), orSame(s.Writable)
	met := cmp.Or(p.Actual, string(p.Kind))
	_, _ = fmt.Fprintf(w, "%s: %s%s: %s\n", program, p.Source.Says(), paint(Line(string(p.Rule))), writable(Lines(met)))

	for _, line := range []struct{ title, text string }{
		{"expected:", p.Expected},
		{"mend:", p.Mend},
		{"request:", p.RequestID},
	} {
		if line.text != "" {
			_, _ = fmt.Fprintf(w, "  %-9s %s\n", line.title, writable(Lines(line.text)))
		}
	}
}

func orSame(f func(string) string) func(string) string {
	if f == nil {
		return func(s string) string { return s }
	}
	return f
}
