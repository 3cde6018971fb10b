package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"cupel.dev/cupel/internal/trusted/problem"
)

// terminal returns the terminal that a person can be asked at.
func (g *globals) terminal() (*os.File, bool) {
	f, ok := g.in.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// ask reads one line. An interrupt ends the waiting.
func (g *globals) ask(ctx context.Context, prompt string) (string, error) {
	_, _ = fmt.Fprint(g.err, prompt)
	if g.lines == nil {
		g.lines = bufio.NewReader(g.in)
	}
	line, err := answer(ctx, func() (string, error) { return g.lines.ReadString('\n') })
	switch {
	case ctx.Err() != nil:
		_, _ = fmt.Fprintln(g.err)
		return "", ctx.Err()
	case err != nil && (!errors.Is(err, io.EOF) || line == ""):
		return "", problem.New(problem.Invalid, "no_answer", "no answer to %q", strings.TrimSpace(prompt))
	}
	return strings.TrimSpace(line), nil
}

// askHidden reads one line that the terminal doesn't show. An interrupt ends the
// waiting, and has the terminal show again what is typed.
func (g *globals) askHidden(ctx context.Context, tty *os.File, prompt string) ([]byte, error) {
	fd := int(tty.Fd())
	was, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	_, _ = fmt.Fprint(g.err, prompt)
	b, err := answer(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	_, _ = fmt.Fprintln(g.err)
	if ctx.Err() != nil {
		_ = term.Restore(fd, was)
		return nil, ctx.Err()
	}
	return b, err
}

// answer waits for read or for the end of ctx. What reads then goes on until the
// process ends, which is at once.
func answer[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type got struct {
		value T
		err   error
	}
	done := make(chan got, 1)
	go func() {
		v, err := read()
		done <- got{v, err}
	}()
	select {
	case g := <-done:
		return g.value, g.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}
