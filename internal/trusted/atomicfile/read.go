package atomicfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// errNoFile is why a pipe, a device or a socket isn't read.
var errNoFile = errors.New("it is no regular file")

// Read returns what is in a file. Unlike [os.ReadFile] it never waits: a pipe or a
// device in the file's place is refused.
func Read(path string) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}

// TooLargeError is why a file with more bytes than it may have isn't read.
type TooLargeError struct{ Most int64 }

func (e *TooLargeError) Error() string { return fmt.Sprintf("it has more than %d bytes", e.Most) }

// ReadNamed returns what is in a file that a person named for one command, of at most so
// many bytes: [*TooLargeError] else, also of a device without an end. It may be a pipe, as a
// shell makes one of <(...), which is waited for until ctx ends.
func ReadNamed(ctx context.Context, path string, most int64) ([]byte, error) {
	type content struct {
		b   []byte
		err error
	}

	came := make(chan content, 1)
	go func() {
		b, err := readUpTo(path, most)
		came <- content{b, err}
	}()

	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("read %s: %w", path, ctx.Err())
	case c := <-came:
		return c.b, c.err
	}
}

func readUpTo(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()

	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		return nil, &fs.PathError{Op: "read", Path: path, Err: &TooLargeError{most}}
	}

	return b, err
}

// Open opens a file to be read. Unlike [os.Open] it never waits: a pipe or a device in
// the file's place is refused.
func Open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}

	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() { // a folder's own error says what it is
		err = &fs.PathError{Op: "read", Path: path, Err: errNoFile}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}

	return f, nil
}
