package logfile

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Stream is where an instance wrote a line to.
type Stream string

// The streams of an instance.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Line is one line of output.
type Line struct {
	Time   time.Time `json:"time"`
	Stream Stream    `json:"stream"`
	Line   string    `json:"line"` // without its end of line
	// Partial says that the line goes on with the next one of the stream: it was too
	// long to be kept whole.
	Partial bool `json:"partial,omitempty"`
}

const (
	suffix = ".jsonl"
	// endMark is the file that says that no more will be written.
	endMark = "end"
	// maxLine is how many bytes of a line are kept together.
	maxLine = 16 << 10
)

// Limits says how much output is kept.
type Limits struct {
	Size int64 // bytes of one file
	Keep int   // files
}

// DefaultLimits keep at most 40 MiB of one instance's output.
func DefaultLimits() Limits { return Limits{Size: 8 << 20, Keep: 5} }

// Writer appends lines to the files of one folder.
type Writer struct {
	dir    string
	limits Limits
	now    func() time.Time

	mu   sync.Mutex
	file *os.File // that is written; nil: none could be opened
	seq  int      // its number
	size int64    // of it
}

// NewWriter appends to dir, which it makes if needed. Where nothing can be written there,
// each line tries again: an instance must not stand still because its log is damaged.
func NewWriter(dir string, limits Limits, now func() time.Time) (*Writer, error) {
	if limits.Size <= 0 || limits.Keep <= 0 {
		return nil, fmt.Errorf("log limits %+v: want both over 0", limits)
	}

	w := &Writer{dir: dir, limits: limits, now: now}
	_ = w.begin()
	return w, nil
}

// begin goes on in the last file that is there.
func (w *Writer) begin() error {
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return fmt.Errorf("make log folder: %w", err)
	}

	seqs, err := fileNumbers(w.dir)
	if err != nil {
		return err
	}

	seq := 1
	if len(seqs) > 0 {
		seq = seqs[len(seqs)-1]
	}
	return w.open(seq)
}

// maxSkipped is how many numbers that something else has are gone by.
const maxSkipped = 100

// open goes on in that file, or in the first after it that can be one. On failure the
// writer stays where it is.
func (w *Writer) open(seq int) error {
	for skipped := 0; skipped < maxSkipped && notAFile(fileName(w.dir, seq)); skipped++ {
		seq++
	}
	f, err := openAppend(fileName(w.dir, seq))
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}

	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open log file: %w", err)
	}

	if w.file != nil {
		_ = w.file.Close() // what was written there is written
	}
	w.file = f
	w.size = info.Size()
	w.seq = seq
	return nil
}

// openAppend opens a file of a log to be written, unless something else is in its place.
func openAppend(path string) (*os.File, error) {
	if notAFile(path) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("it is no file")}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NONBLOCK, 0o600)
}

// notAFile reports whether something is there that is no file.
func notAFile(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && !info.Mode().IsRegular()
}

// Write appends one line. It is safe for concurrent use.
func (w *Writer) Write(stream Stream, text string) error {
	return w.write(Line{Stream: stream, Line: text})
}

func (w *Writer) write(line Line) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	line.Time = w.now().UTC()

	b, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("encode log line: %w", err)
	}
	b = append(b, '\n')

	if w.file == nil {
		if err := w.begin(); err != nil {
			return err
		}
	}

	if w.size > 0 && w.size+int64(len(b)) > w.limits.Size {
		if err := w.rotate(); err != nil {
			return err
		}
	}

	if _, err := w.file.Write(b); err != nil {
		_ = w.file.Truncate(w.size) // so that the next line doesn't follow half of this one
		return fmt.Errorf("write log line: %w", err)
	}
	w.size += int64(len(b))
	return nil
}

// rotate goes on in the next file and removes the oldest beyond those that are kept.
// One that fails leaves the writer where it was, so that the next line tries again.
// Where the disk has no room for another file, the oldest makes it.
func (w *Writer) rotate() error {
	err := w.open(w.seq + 1)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		w.removeBeyond(w.count() - 1)
		err = w.open(w.seq + 1)
	}
	if err != nil {
		return err
	}
	w.removeBeyond(w.limits.Keep)
	return nil
}

func (w *Writer) count() int {
	seqs, _ := fileNumbers(w.dir) // none, if they can't be listed
	return len(seqs)
}

// removeBeyond removes the oldest files beyond so many, but never the last one. What
// can't be removed is looked at again with the next rotation.
func (w *Writer) removeBeyond(keep int) {
	seqs, err := fileNumbers(w.dir)
	for err == nil && len(seqs) > max(keep, 1) {
		err = os.Remove(fileName(w.dir, seqs[0]))
		seqs = seqs[1:]
	}
}

// Close ends the log: readers that follow it come to an end.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()

	var err error
	if w.file != nil {
		err = w.file.Close()
	}
	return errors.Join(err, os.WriteFile(filepath.Join(w.dir, endMark), nil, 0o600))
}

// Copy reads lines from r until its end and writes them. A line that can't be
// written (a full disk) is dropped, and the reading goes on: an instance must
// not stand still because its log can't grow. The first such error is returned.
func (w *Writer) Copy(stream Stream, r io.Reader) error {
	br := bufio.NewReaderSize(r, maxLine-utf8.UTFMax)
	var first error
	rest := "" // of the piece before

	for {
		chunk, err := br.ReadSlice('\n')
		text := rest + string(chunk)
		rest = ""
		partial := errors.Is(err, bufio.ErrBufferFull)
		if partial {
			text, rest = cutPiece(text)
		}

		if text != "" {
			if !partial {
				text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
			}
			if werr := w.write(Line{Stream: stream, Line: text, Partial: partial}); werr != nil && first == nil {
				first = werr
			}
		}

		switch {
		case errors.Is(err, io.EOF):
			return first
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return errors.Join(first, fmt.Errorf("read %s: %w", stream, err))
		}
	}
}

// cutPiece splits the beginning of a line so that pieces that are put together again are the
// line: rest is what may be half of a character, or of an end of line.
func cutPiece(text string) (piece, rest string) {
	if piece, ended := strings.CutSuffix(text, "\r"); ended {
		return piece, "\r"
	}

	for i := 1; i < utf8.UTFMax; i++ {
		at := len(text) - i
		if utf8.RuneStart(text[at]) {
			if !utf8.FullRuneInString(text[at:]) {
				return text[:at], text[at:]
			}
			break
		}
	}
	return text, ""
}

func fileName(dir string, seq int) string {
	return filepath.Join(dir, fmt.Sprintf("%08d%s", seq, suffix))
}

// fileNumbers returns the numbers of a folder's files in order.
func fileNumbers(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read log folder: %w", err)
	}

	var seqs []int
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		if n, err := strconv.Atoi(digits); err == nil && n > 0 && e.Type().IsRegular() {
			seqs = append(seqs, n)
		}
	}
	slices.Sort(seqs)
	return seqs, nil
}
