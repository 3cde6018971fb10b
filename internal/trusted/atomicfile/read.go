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

// ReadNamed returns what is in a file that a person named for one command. It may be a
// pipe, as a shell makes one of <(...), which is waited for until ctx ends, or a terminal;
// another device may have no end, and is refused.
func ReadNamed(ctx context.Context, path string) ([]byte, error) {
	return waited(ctx, path, func() ([]byte, error) { return readNamed(path) })
}

// ReadNamedUpTo is [ReadNamed] of at most so many bytes: of a larger file, or of a pipe or
// device without an end, these.
func ReadNamedUpTo(ctx context.Context, path string, most int64) ([]byte, error) {
	return waited(ctx, path, func() ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		return io.ReadAll(io.LimitReader(f, most))
	})
}

// waited waits for what is read of a file until ctx ends.
func waited(ctx context.Context, path string, read func() ([]byte, error)) ([]byte, error) {
	type content struct {
		b   []byte
		err error
	}
	came := make(chan content, 1)
	go func() {
		b, err := read()
		came <- content{b, err}
	}()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("read %s: %w", path, ctx.Err())
	case c := <-came:
		return c.b, c.err
	}
}

func readNamed(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular(), mode.IsDir(), mode&fs.ModeNamedPipe != 0: // a folder's own error says what it is
		return io.ReadAll(f)
	case mode&fs.ModeCharDevice != 0 && terminal(f):
		return io.ReadAll(f)
	}
	return nil, &fs.PathError{Op: "read", Path: path, Err: errNoFile}
}

// terminal says that a person may type what is read of the file, as of /dev/stdin.
func terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
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
