package ask

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// Terminal returns the terminal that a person can be asked at, if in is one.
func Terminal(in io.Reader) (*os.File, bool) {
	f, ok := in.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// Line writes the prompt to w and reads the answer from r, its newline included.
func Line(ctx context.Context, r *bufio.Reader, w io.Writer, prompt string) (string, error) {
	_, _ = fmt.Fprint(w, prompt)
	line, err := wait(ctx, func() (string, error) { return r.ReadString('\n') })
	if ctx.Err() != nil {
		_, _ = fmt.Fprintln(w)
		return "", ctx.Err()
	}
	return line, err
}

// Hidden writes the prompt to w and reads a line that the terminal doesn't show. After
// an interrupt the terminal shows again what is typed.
func Hidden(ctx context.Context, tty *os.File, w io.Writer, prompt string) ([]byte, error) {
	fd := int(tty.Fd())
	was, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}

	_, _ = fmt.Fprint(w, prompt)
	b, err := wait(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	_, _ = fmt.Fprintln(w)
	if ctx.Err() != nil {
		_ = term.Restore(fd, was)
		return nil, ctx.Err()
	}
	return b, err
}

// wait is for read, or for the end of ctx. What reads then goes on until the process
// ends, which is at once.
func wait[T any](ctx context.Context, read func() (T, error)) (T, error) {
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
