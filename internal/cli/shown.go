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
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/wording"
)

// rendition is a sequence that only changes how text looks (SGR, ECMA-48 8.3.117).
var rendition = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// harmless are the renditions that are passed on from apps: colours of the text, bold,
// faint, italic, underlined, and their ends. None of them sets the background, so that an
// app can't have text in the same colour on it.
var harmless = regexp.MustCompile(`^\x1b\[(` + harmlessOne + `)?(;(` + harmlessOne + `)?)*m$`)

const harmlessOne = `0?[0-4]|2[234]|[39][0-7]|39|38;5;[0-9]{1,3}|38;2;[0-9]{1,3};[0-9]{1,3};[0-9]{1,3}`

// colored is one line of an app's output, with its colours.
func colored(s string) string {
	var b strings.Builder
	last := 0
	for _, at := range rendition.FindAllStringIndex(s, -1) {
		if !harmless.MatchString(s[at[0]:at[1]]) {
			continue
		}

		b.WriteString(wording.LogLine(s[last:at[0]]) + s[at[0]:at[1]])
		last = at[1]
	}

	b.WriteString(wording.LogLine(s[last:]))
	if last > 0 {
		b.WriteString("\x1b[0m") // what follows is not the app's
	}
	return b.String()
}

// paragraphs is a text that has several lines of our own making: what others say in it is
// on one line before it is folded.
type paragraphs string

// printf writes to standard output. The format is ours: it is passed on as it is, and its
// commands name the state folder. Text among the arguments may be anybody's: it is written
// on one line. Two kinds may have several: paragraphs, which are ours, and errors, whose
// further lines are marked. What can't be written makes the command fail.
func (g *globals) printf(format string, args ...any) {
	if err := g.write(g.writable(g.text(format, args))); err != nil && g.unsaid == nil {
		g.unsaid = err
	}
}

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

// printDocument writes a text that is all of the answer: as it is, where it is data.
func (g *globals) printDocument(text string) error {
	if isTerminal(g.out) {
		text = wording.Document(text)
	}
	return g.write(text)
}

// printLine writes v as JSON in one line: of answers that come bit by bit.
func (g *globals) printLine(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return g.write(string(wording.JSON(b)) + "\n")
}

// warnf writes a line for people where it disturbs no program. Programs, who asked for
// JSON, get an object.
func (g *globals) warnf(format string, args ...any) {
	if g.json() {
		text := strings.TrimSpace(fmt.Sprintf(g.formatInState(format), args...))
		_ = json.NewEncoder(wording.JSONWriter(g.err)).Encode(map[string]string{"warning": text})
		return
	}
	_, _ = fmt.Fprintln(g.err, g.writable(g.text(format, args)))
}

// inState returns a mend whose commands meet the manager that this command met: they name
// its state folder, unless it is a provider's.
func (g *globals) inState(mend string) string { return g.withState(mend, g.state) }

// formatInState is inState for a format, in which a percent sign of the folder's name is
// written twice.
func (g *globals) formatInState(format string) string {
	return g.withState(format, strings.ReplaceAll(g.state, "%", "%%"))
}

func (g *globals) withState(text, state string) string {
	if g.provider != "" {
		return text
	}
	return wording.InState(text, state, defaultState)
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

// text returns what people see of a format, which is ours, and of its arguments, which may
// be anybody's.
func (g *globals) text(format string, args []any) string {
	for i, a := range args {
		if ours, ok := a.(paragraphs); ok {
			args[i] = string(ours)
			continue
		}

		if err, ok := a.(error); ok {
			args[i] = wording.Lines(g.inState(err.Error()))
			continue
		}

		if text := reflect.ValueOf(a); text.Kind() == reflect.String {
			args[i] = wording.Line(text.String())
		}
	}

	return fmt.Sprintf(g.formatInState(format), args...)
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
