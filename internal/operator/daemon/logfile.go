package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// maxLog is how large a daemon's log grows before it is set aside; one older
// file is kept, beside the log or, where that is a link, beside what it leads to.
const maxLog = 16 << 20

// rotatingFile is a daemon's log: what is written to it in one call stays
// together. One that can't be opened is tried again with every call. Safe for concurrent
// use.
type rotatingFile struct {
	path  string
	limit int64
	note  func(error) // optional: hears of each call how it went; may not write to this log

	mu     sync.Mutex
	file   *os.File
	size   int64
	device bool // which is never set aside
	closed bool
}

// openRotating opens a log, in a folder that it makes. The log can be written to also
// where that failed: it has nothing then, until it can be opened.
func openRotating(path string, limit int64) (*rotatingFile, error) {
	r := &rotatingFile{path: path, limit: limit}
	return r, r.open()
}

// open opens the log, in a folder that it makes. Callers hold mu, or nobody else has it.
func (r *rotatingFile) open() error {
	if err := os.MkdirAll(filepath.Dir(r.path), 0o755); err != nil {
		return err
	}

	f, err := openLog(r.path)
	if err != nil {
		return err
	}

	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open log: %w", err), f.Close())
	}

	r.file = f
	r.size = info.Size()
	r.device = !info.Mode().IsRegular()
	return nil
}

// older is the file that a log's path leads to, and where the older one is kept.
func older(path string) (file, before string, err error) {
	file, err = filepath.EvalSymlinks(path)
	return file, file + ".1", err
}

// openLog opens a log to be appended to.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// Write implements io.Writer.
func (r *rotatingFile) Write(b []byte) (int, error) {
	r.mu.Lock()
	n, err := r.write(b)
	note := r.note
	r.mu.Unlock()

	if note != nil {
		note(err)
	}
	return n, err
}

// tell has the log's troubles told from now on, beginning with what it has.
func (r *rotatingFile) tell(note func(error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note = note

	if r.file != nil || r.closed {
		return nil
	}
	return r.open()
}

// write is Write with mu held.
func (r *rotatingFile) write(b []byte) (int, error) {
	if r.closed {
		return 0, fs.ErrClosed
	}

	if r.file != nil && !r.device && r.size > 0 && r.size+int64(len(b)) > r.limit {
		file, before, err := older(r.path)
		if err == nil {
			err = os.Rename(file, before)
		}
		if err != nil {
			return 0, err
		}
		_ = r.file.Close() // what was written there is written
		r.file = nil
	}

	if r.file == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}

	n, err := r.file.Write(b)
	r.size += int64(n)
	return n, err
}

// Close implements io.Closer.
func (r *rotatingFile) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.file == nil {
		return nil
	}

	err := r.file.Close()
	r.file = nil
	return err
}
