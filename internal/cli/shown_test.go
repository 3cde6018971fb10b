package cli

import (
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/problem"
)

const hostile = "ok\x1b[2J\x1b]52;c;cm0gLXJmIC8=\x07\r\u009b1A\u202egnp\xff"

func TestShown(t *testing.T) {
	for in, want := range map[string]string{
		"":                     "",
		"plain, Überschrift ✓": "plain, Überschrift ✓",
		"two\nlines\tand":      "two\nlines\tand",
		"\uFFFD stays":         "\uFFFD stays",
		hostile:                `ok\x1b[2J\x1b]52;c;cm0gLXJmIC8=\a\r\u009b1A\u202egnp\xff`,
		`"quoted"` + "\x7f":    `"quoted"\x7f`,
	} {
		if got := shown(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	if got := cell("a\nb\tc"); got != `a\nb\tc` {
		t.Errorf("a cell: %s", got)
	}
	if got := colored("\x1b[1;31mred\x1b[0m \x1b[2Jgone"); got != "\x1b[1;31mred\x1b[0m \\x1b[2Jgone\x1b[0m" {
		t.Errorf("%q", got)
	}
}

// TestNothingIsObeyed: what an operator or an app says reaches the terminal as
// text, whichever way it takes.
func TestNothingIsObeyed(t *testing.T) {
	var out, errs bytes.Buffer
	g := &globals{out: &out, err: &errs, output: "table"}
	if err := g.table([]string{"APP"}, [][]string{{hostile}}); err != nil {
		t.Fatal(err)
	}
	g.printf("%s %v %s\n", hostile, errors.New(hostile), problem.Kind(hostile))
	g.warnf("%s", hostile)
	g.fail(&problem.Error{Kind: problem.Denied, Rule: hostile, Actual: hostile, Expected: hostile, Mend: hostile, RequestID: hostile})
	g.fail(errors.New(hostile))
	if err := g.printLog(manager.LogLine{Instance: hostile, Line: "a line"}, true); err != nil {
		t.Fatal(err)
	}
	for _, b := range []string{out.String(), errs.String()} {
		if strings.ContainsAny(b, "\x1b\x07\r\u009b\u202e") {
			t.Errorf("%q", b)
		}
	}
}

func FuzzShown(f *testing.F) {
	f.Add(hostile)
	f.Fuzz(func(t *testing.T, s string) {
		if got := shown(s); strings.ContainsAny(got, "\x1b\x07\r\x7f") {
			t.Errorf("%q", got)
		}
	})
}

// TestFullDiskIsTold: whatever a command writes, a disk without room for it is told as
// such, with what to do.
func TestFullDiskIsTold(t *testing.T) {
	var errw bytes.Buffer
	g := &globals{err: &errw}
	code := g.fail(&fs.PathError{Op: "write", Path: "/home/o/key", Err: syscall.ENOSPC})
	if said := errw.String(); code != problem.Unavailable.ExitCode() || !strings.HasPrefix(said, "cupel: disk_full: /home/o/key: the disk is full") || !strings.Contains(said, "mend:") {
		t.Errorf("exit %d: %s", code, said)
	}
}
