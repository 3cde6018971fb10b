package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"cupel.dev/cupel/internal/trusted/problem"
)

// What commands print comes from managers, apps and files that nobody trusts,
// and a terminal obeys what it is shown: it can be made to hide lines, to write
// others over them, to answer as if the person had typed.

// shown is s with everything written out that a terminal would obey instead of
// showing: control characters but newline and tab, what turns the direction of
// text around, bytes that are no text.
func shown(s string) string { return quoteUnless(s, "\n\t") }

// cell is shown on one line.
func cell(s string) string { return quoteUnless(s, "") }

func quoteUnless(s, keep string) string {
	obeyed := func(r rune) bool {
		return unicode.IsControl(r) && !strings.ContainsRune(keep, r) || unicode.Is(unicode.Bidi_Control, r)
	}
	if utf8.ValidString(s) && !strings.ContainsFunc(s, obeyed) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if obeyed(r) || r == utf8.RuneError && size == 1 {
			b.WriteString(strings.Trim(strconv.QuoteToASCII(s[:size]), `"`))
		} else {
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}

// color is the one kind of escape sequence that is passed on from apps: it
// changes how text looks, and nothing else.
var color = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// colored is one line of an app's output: shown, with its colours.
func colored(s string) string {
	var b strings.Builder
	last := 0
	for _, at := range color.FindAllStringIndex(s, -1) {
		b.WriteString(shown(s[last:at[0]]) + s[at[0]:at[1]])
		last = at[1]
	}
	b.WriteString(shown(s[last:]))
	if last > 0 {
		b.WriteString("\x1b[0m") // what follows is not the app's
	}
	return b.String()
}

// printf writes to standard output. Text among the arguments is shown; the
// format is ours and passed on as it is. What can't be written makes the command fail.
func (g *globals) printf(format string, args ...any) {
	showAll(args)
	if err := g.write(g.writable(fmt.Sprintf(format, args...))); err != nil && g.unsaid == nil {
		g.unsaid = err
	}
}

// ruleOutput is the rule of an answer that nobody could be given.
const ruleOutput = "output"

// write writes to standard output.
func (g *globals) write(text string) error {
	if _, err := io.WriteString(g.out, text); err != nil {
		return unwritten(err)
	}
	return nil
}

// unwritten is the refusal of an answer, or a part of one, that can't be written.
func unwritten(err error) error {
	return problem.New(problem.Unavailable, ruleOutput, "the answer can't be written: %w", err).
		Want("a standard output that takes it").Fix("make room where it goes; what the command did is done")
}

// readerEvery is how often somebody who waits looks whether the command is over.
const readerEvery = 500 * time.Millisecond

// whileRead does what writes now and then, until it ends or nobody reads the standard
// output any more, as after head: a write would find that out, and may come late.
func (g *globals) whileRead(ctx context.Context, do func(ctx context.Context) error) error {
	out, ok := g.out.(*os.File)
	if !ok {
		return do(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		for ctx.Err() == nil {
			fds := []unix.PollFd{{Fd: int32(out.Fd())}} //nolint:gosec // descriptors are small
			if n, err := unix.Poll(fds, int(readerEvery.Milliseconds())); n > 0 && err == nil {
				cancel(unwritten(syscall.EPIPE))
				return
			}
		}
	}()
	err := do(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, syscall.EPIPE) {
		return cause
	}
	return err
}

// printLine writes v as JSON in one line: of answers that come bit by bit.
func (g *globals) printLine(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return g.write(string(b) + "\n")
}

// warnf writes a line for people where it disturbs no program. Programs, who asked for
// JSON, get an object.
func (g *globals) warnf(format string, args ...any) {
	showAll(args)
	text := fmt.Sprintf(format, args...)
	if g.json() {
		_ = json.NewEncoder(g.err).Encode(map[string]string{"warning": strings.TrimSpace(text)})
		return
	}
	_, _ = fmt.Fprintln(g.err, g.writable(text))
}

// writable is a text with our own signs written in ASCII, where the locale says that the
// terminal knows no others. Where it says nothing, UTF-8 is what terminals know today.
func (g *globals) writable(s string) string {
	if g.env == nil {
		return s
	}
	locale := cmp.Or(g.env("LC_ALL"), g.env("LC_CTYPE"), g.env("LANG")) // POSIX, 8.2
	if utf := strings.ReplaceAll(strings.ToUpper(locale), "-", ""); locale == "" || strings.Contains(utf, "UTF8") {
		return s
	}
	return strings.NewReplacer("✓", "+", "✗", "x", "·", "-", "…", "...").Replace(s)
}

func showAll(args []any) {
	for i, a := range args {
		switch v := a.(type) {
		case error:
			args[i] = shown(v.Error())
		case fmt.Stringer: // our own types: digests, times
		default:
			if r := reflect.ValueOf(a); r.Kind() == reflect.String {
				args[i] = shown(r.String())
			}
		}
	}
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
