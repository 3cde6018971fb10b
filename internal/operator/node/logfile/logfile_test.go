package logfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// clock counts one second a call.
func clock() func() time.Time {
	t := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time {
		t = t.Add(time.Second)
		return t
	}
}

func writer(t *testing.T, dir string, limits Limits) *Writer {
	t.Helper()
	w, err := NewWriter(dir, limits, clock())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func lines(t *testing.T, r io.Reader) []Line {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var out []Line
	for line := range strings.Lines(string(b)) {
		var l Line
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, l)
	}
	return out
}

func texts(t *testing.T, r io.Reader) []string {
	t.Helper()
	var out []string
	for _, l := range lines(t, r) {
		out = append(out, string(l.Stream)+":"+l.Line)
	}
	return out
}

func read(t *testing.T, dir string, opts Options) []string {
	t.Helper()
	r := Open(t.Context(), dir, opts)
	defer r.Close()
	return texts(t, r)
}

// TestFailedRotation: a log whose next file can't be made for a while goes on once it
// can, and loses nothing but the lines of that time.
func TestFailedRotation(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir, Limits{Size: 300, Keep: 3})
	var wrote []string
	write := func(i int) error {
		err := w.Write("stdout", fmt.Sprint(i))
		if err == nil {
			wrote = append(wrote, "stdout:"+fmt.Sprint(i))
		}
		return err
	}
	for i := range 3 {
		if err := write(i); err != nil {
			t.Fatal(err)
		}
	}
	for seq := range maxSkipped + 1 { // a folder can't be opened as a log
		if err := os.Mkdir(fileName(dir, 2+seq), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	failed := 0
	for i := range 10 {
		if write(3+i) != nil {
			failed++
		}
	}
	if failed == 0 {
		t.Fatal("no rotation was due")
	}
	for seq := range maxSkipped + 1 {
		if err := os.Remove(fileName(dir, 2+seq)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		if err := write(20 + i); err != nil {
			t.Errorf("once it can rotate again: %v", err)
		}
	}
	if diff := cmp.Diff(wrote, read(t, dir, Options{Tail: -1})); diff != "" {
		t.Error(diff)
	}
}

// TestHalfALine: a disk that fills up in the middle of a line leaves no half of it.
func TestHalfALine(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir, DefaultLimits())
	if err := w.Write("stdout", "before"); err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{Cur: uint64(w.size) + 10, Max: unix.RLIM_INFINITY}
	var was unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_FSIZE, nil, &was); err != nil {
		t.Fatal(err)
	}
	limit.Max = was.Max
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	if err := unix.Prlimit(0, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	err := w.Write("stdout", "does not fit")
	if rerr := unix.Prlimit(0, unix.RLIMIT_FSIZE, &was, nil); rerr != nil {
		t.Fatal(rerr)
	}
	if err == nil {
		t.Fatal("it was written whole")
	}
	if err := w.Write("stdout", "after"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"stdout:before", "stdout:after"}, read(t, dir, Options{Tail: -1})); diff != "" {
		t.Error(diff)
	}
}

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir, DefaultLimits())
	long := strings.Repeat("x", maxLine-utf8.UTFMax)
	if err := w.Copy("stdout", strings.NewReader("one\ntwo\r\n\n"+long+"y\nno end")); err != nil {
		t.Fatal(err)
	}
	if err := w.Write("stderr", "\x1b<&>\xff"); err != nil {
		t.Fatal(err)
	}
	want := []string{"stdout:one", "stdout:two", "stdout:", "stdout:" + long, "stdout:y", "stdout:no end", "stderr:\x1b<&>\ufffd"}
	if diff := cmp.Diff(want, read(t, dir, Options{Tail: -1})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want[5:], read(t, dir, Options{Tail: 2})); diff != "" {
		t.Error(diff)
	}
	if got := read(t, dir, Options{Tail: 0}); len(got) != 0 {
		t.Errorf("tail 0: %q", got)
	}
	since := time.Date(2026, 1, 1, 0, 0, 6, 0, time.UTC)
	if diff := cmp.Diff(want[5:], read(t, dir, Options{Tail: -1, Since: since})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want[6:], read(t, dir, Options{Tail: 1, Since: since})); diff != "" {
		t.Error(diff)
	}
}

// TestPieces: whatever stands where a line that is too long is cut, its pieces are marked,
// and together they are the line.
func TestPieces(t *testing.T) {
	var want []string
	for _, middle := range []string{"x", "ä", "→", "😀", "\r", "\r\r", "\xff"} {
		for before := range 2 * utf8.UTFMax {
			want = append(want, strings.Repeat("a", maxLine-utf8.UTFMax-before)+middle+"b")
		}
	}
	want = append(want, strings.Repeat("😀", 3*maxLine), strings.Repeat("z", maxLine-utf8.UTFMax), "short", "")
	for _, end := range []string{"\n", "\r\n"} {
		dir := t.TempDir()
		if err := writer(t, dir, Limits{Size: 1 << 30, Keep: 1}).Copy("stdout", strings.NewReader(strings.Join(want, end)+end)); err != nil {
			t.Fatal(err)
		}
		var got []string
		begun := ""
		for _, l := range lines(t, Open(t.Context(), dir, Options{Tail: -1})) {
			if len(l.Line) > maxLine {
				t.Errorf("a piece of %d bytes", len(l.Line))
			}
			begun += l.Line
			if !l.Partial {
				got, begun = append(got, begun), ""
			}
		}
		for i := range want {
			want[i] = strings.ToValidUTF8(want[i], "\ufffd")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("lines that end with %q: %s", end, diff)
		}
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir, Limits{Size: 300, Keep: 3})
	for i := range 50 {
		if err := w.Write("stdout", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	seqs, err := fileNumbers(dir)
	if err != nil || len(seqs) != 3 {
		t.Fatalf("files %v, %v", seqs, err)
	}
	for _, s := range seqs {
		if info, err := os.Stat(fileName(dir, s)); err != nil || info.Size() > 300 {
			t.Errorf("file %d: %v, %v", s, info.Size(), err)
		}
	}
	got := read(t, dir, Options{Tail: -1})
	if last := got[len(got)-1]; last != "stdout:49" {
		t.Errorf("ends with %s", last)
	}
	// A new writer goes on where the old one was.
	w = writer(t, dir, Limits{Size: 300, Keep: 3})
	if err := w.Write("stdout", "again"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir, Options{Tail: 2}); !slices.Equal(got, []string{"stdout:49", "stdout:again"}) {
		t.Errorf("%q", got)
	}
}

// TestFollow reads while it is written and rotated: nothing is lost or doubled.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	r := Open(t.Context(), dir, Options{Follow: true, Tail: -1})
	defer r.Close()
	const n = 2000
	go func() {
		w, err := NewWriter(dir, Limits{Size: 4 << 10, Keep: 1000}, time.Now)
		if err != nil {
			t.Error(err)
			return
		}
		for i := range n {
			if err := w.Write("stdout", fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
			if i%200 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	got := texts(t, r) // ends by itself
	if len(got) != n {
		t.Fatalf("%d lines, want %d", len(got), n)
	}
	for i, line := range got {
		if line != fmt.Sprint("stdout:", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

func TestFollowEnds(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir, DefaultLimits())
	if err := w.Write("stdout", "x"); err != nil {
		t.Fatal(err)
	}
	// With its context.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	r := Open(ctx, dir, Options{Follow: true, Tail: -1})
	defer r.Close()
	if b, err := io.ReadAll(r); !errors.Is(err, context.DeadlineExceeded) || len(b) == 0 {
		t.Errorf("%q, %v", b, err)
	}
	// When the caller knows better than the files.
	if got := read(t, dir, Options{Follow: true, Tail: -1, Ended: func() bool { return true }}); len(got) != 1 {
		t.Errorf("%q", got)
	}
	// An empty log.
	if got := read(t, filepath.Join(dir, "none"), Options{Tail: -1}); got != nil {
		t.Errorf("%q", got)
	}
}

func TestTornLine(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir, DefaultLimits())
	if err := w.Write("stdout", "whole"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fileName(dir, 1), append(mustRead(t, fileName(dir, 1)), `{"time":"20`...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir, Options{Tail: -1}); !slices.Equal(got, []string{"stdout:whole"}) {
		t.Errorf("%q", got)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestURI(t *testing.T) {
	limits := Limits{Size: 5, Keep: 2}
	got := URI("/usr/bin/a b", "/state/logs:1&x/i-1", limits)
	if want := "binary:///usr/bin/a%20b?log-writer=5%3A2%3A%2Fstate%2Flogs%3A1%26x%2Fi-1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	dir, l, err := parseArg("5:2:/state/logs:1&x/i-1")
	if err != nil || dir != "/state/logs:1&x/i-1" || l != limits {
		t.Errorf("%q, %v, %v", dir, l, err)
	}
	for _, bad := range []string{"", "5:2", "x:2:/d", "5:x:/d"} {
		if err := Main(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}
