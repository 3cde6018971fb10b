package logfile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Options selects lines.
type Options struct {
	Follow bool
	Since  time.Time   // zero: from the oldest kept
	Tail   int         // at most that many of the newest to begin with; negative: all
	Ended  func() bool // with Follow: nobody writes any more, whatever the files say
}

// poll is how long a follower waits before it looks again after it found something.
// Where nothing comes it waits longer each time, up to maxPoll.
const (
	poll    = 50 * time.Millisecond
	maxPoll = 400 * time.Millisecond
)

// Open returns the folder's lines, as they are in the files. The reader must be
// closed. A folder without files, or none, is an empty log.
func Open(ctx context.Context, dir string, opts Options) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	go func() {
		r := reader{
			ctx:  ctx,
			dir:  dir,
			opts: opts,
			out:  pw,
		}
		pw.CloseWithError(r.run())
	}()
	return &stream{PipeReader: pr, cancel: cancel}
}

type stream struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (s *stream) Close() error {
	s.cancel()
	return s.PipeReader.Close()
}

// reader goes through the files by number.
type reader struct {
	ctx  context.Context //nolint:containedctx // lives as long as one Open
	dir  string
	opts Options
	out  io.Writer
	ring [][]byte // while collecting the tail
	read int64    // bytes so far
}

// run hands on what is in the files, oldest first, and follows them if that is asked for.
func (r *reader) run() error {
	seq, err := r.first()
	if err != nil {
		return err
	}
	var file *os.File // of that number, while it is open
	defer func() {
		if file != nil {
			file.Close()
		}
	}()

	var partial []byte             // the beginning of a line whose end is not written yet
	collecting := r.opts.Tail >= 0 // until the first end of all files
	wait := poll
	for {
		ended := r.ended()

		if file == nil {
			if file, err = r.open(&seq); err != nil {
				return err
			}
		}
		if file != nil {
			// Look for the next file before reading this one to its end: once
			// the next one is there, this one grows no more.
			next := r.after(seq)
			before := r.read
			if partial, err = r.drain(file, partial, collecting); err != nil {
				return err
			}
			if r.read > before {
				wait = poll
			}

			if next > 0 {
				file.Close()
				file = nil
				seq = next
				continue
			}
		}

		if collecting {
			collecting = false
			for _, line := range r.ring {
				if _, err := r.out.Write(line); err != nil {
					return err
				}
			}
			r.ring = nil
		}

		if !r.opts.Follow || ended {
			return nil
		}

		select {
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-time.After(wait):
			wait = min(2*wait, maxPoll)
		}
	}
}

// ended is asked before reading, so that what was written until then is read.
func (r *reader) ended() bool {
	return exists(filepath.Join(r.dir, endMark)) || r.opts.Ended != nil && r.opts.Ended()
}

// first is the number of the oldest file; 1, where there is none yet.
func (r *reader) first() (int, error) {
	seqs, err := fileNumbers(r.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if len(seqs) == 0 {
		return 1, nil
	}
	return seqs[0], nil
}

// open opens file seq; if rotation took it away, or it is no file, the next that is there.
func (r *reader) open(seq *int) (*os.File, error) {
	if at := fileName(r.dir, *seq); !notAFile(at) {
		f, err := os.Open(at)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	if next := r.after(*seq); next > 0 {
		*seq = next
		return r.open(seq)
	}
	return nil, nil
}

// after is the number of the next file after that one; 0: there is none.
func (r *reader) after(seq int) int {
	seqs, _ := fileNumbers(r.dir) // none, if they can't be listed
	for _, next := range seqs {
		if next > seq {
			return next
		}
	}
	return 0
}

// drain hands on the whole lines up to the file's end and returns what is left
// of an unfinished one.
func (r *reader) drain(f *os.File, partial []byte, collecting bool) ([]byte, error) {
	br := bufio.NewReader(f)
	for {
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}

		chunk, err := br.ReadBytes('\n')
		partial = append(partial, chunk...)
		r.read += int64(len(chunk))
		if errors.Is(err, io.EOF) {
			return partial, nil
		}
		if err != nil {
			return nil, err
		}

		line := partial
		partial = nil
		if !r.wanted(line) {
			continue
		}

		if collecting {
			r.ring = append(r.ring, line)
			if len(r.ring) > r.opts.Tail {
				r.ring = r.ring[1:]
			}
			continue
		}

		if _, err := r.out.Write(line); err != nil {
			return nil, err
		}
	}
}

// wanted tells whether a line is as new as was asked for.
func (r *reader) wanted(line []byte) bool {
	if r.opts.Since.IsZero() {
		return true
	}

	var l Line
	if json.Unmarshal(bytes.TrimSpace(line), &l) != nil {
		return false // torn by a crash of the machine
	}
	return !l.Time.Before(r.opts.Since)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
