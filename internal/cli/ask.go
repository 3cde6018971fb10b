package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/ask"
)

// terminal returns the terminal that a person can be asked at.
func (g *globals) terminal() (*os.File, bool) { return ask.Terminal(g.in) }

// ask reads one line.
func (g *globals) ask(ctx context.Context, prompt string) (string, error) {
	if g.lines == nil {
		g.lines = bufio.NewReader(g.in)
	}

	line, err := ask.Line(ctx, g.lines, g.err, prompt)
	switch {
	case ctx.Err() != nil:
		return "", err
	case err != nil && (!errors.Is(err, io.EOF) || line == ""):
		return "", problem.New(problem.Invalid, ruleNoAnswer, "no answer to %q", strings.TrimSpace(prompt))
	}
	return strings.TrimSpace(line), nil
}
