package node

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/trusted/sealed"
	"cupel.dev/cupel/internal/trusted/wire"
)

// errOtherBytes says that a snapshot is not what its tag names.
var errOtherBytes = errors.New("it has other bytes than were stored there, more or less of them")

// checkTag reads a snapshot to its end and returns why it isn't the one that was stored under
// that tag; nil where it is.
func checkTag(r io.Reader, tag ident.Digest) error {
	got, err := sealed.StoredTag(r)
	if err == nil && got != tag {
		err = errOtherBytes
	}
	return err
}

// fileState tells a file that was judged from one that was changed since, as far as who
// changed it wrote it through the file system.
type fileState struct {
	inode   uint64
	size    int64
	changed int64 // Unix nanoseconds
}

func stateOf(info fs.FileInfo) fileState {
	s := fileState{size: info.Size(), changed: info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = stat.Ino
	}
	return s
}

// openHere opens the file of a snapshot. With an error, which says why it isn't the one
// that was stored, it returns the file too where there is one to be read, from its beginning.
// One that was found whole before, and is the same file still, isn't judged again.
func (s *volumeStore) openHere(ctx context.Context, v wire.Snapshot) (*os.File, int64, error) {
	f, err := atomicfile.Open(s.path(v))
	if err != nil {
		return nil, 0, err
	}

	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = syscall.EISDIR
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}

	state := stateOf(info)
	if was, ok := s.whole.Load(v); ok && was == state {
		return f, state.size, nil
	}

	err = s.checkTagOf(ctx, f, v)
	if ctx.Err() != nil {
		_ = f.Close()
		return nil, 0, ctx.Err()
	}
	if err == nil {
		s.whole.Store(v, state)
	}
	return f, state.size, err
}

// checkTagOf judges a snapshot's file, until ctx ends, and goes back to its beginning.
func (s *volumeStore) checkTagOf(ctx context.Context, f *os.File, v wire.Snapshot) error {
	defer context.AfterFunc(ctx, func() { _ = f.Close() })() // which ends the reading

	err := checkTag(f, v.Tag)
	_, serr := f.Seek(0, io.SeekStart)
	return errors.Join(err, serr)
}

// doubt forgets what was judged whole: somebody who read of it says that it isn't. A disk
// may change what it has and leave no trace of that in the file system.
func (s *volumeStore) doubt() { s.whole.Clear() }

// isDamaged tells whether what openHere says means that there is a file, and another one than
// was stored.
func isDamaged(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && !errors.Is(err, fs.ErrNotExist)
}
