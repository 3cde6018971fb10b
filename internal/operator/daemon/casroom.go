package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// casRoom is kept for the CAS beyond what its database's log has: some hundred entries,
// as instances that end and volumes that are stored make them.
const casRoom = reserveSize / 2

// makeRoom takes room for the CAS, so that it can write on a full disk. File systems
// keep their last blocks for root alone, so that what is free for cupeld is nothing to
// the CAS's user. Therefore cupeld takes it, for the file that the CAS writes first: the
// log of its database, which gets no longer by that. A new database needs none.
func (c *casProcess) makeRoom() error {
	db := filepath.Join(c.dir, "cas.db")
	if info, err := os.Lstat(db); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}

	// The folder is another user's: no link of theirs is followed.
	f, err := os.OpenFile(db+"-wal", os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return fmt.Errorf("keep room for the CAS: %w", err)
	}
	defer func() { _ = f.Close() }()

	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("keep room for the CAS: %w", err)
	}

	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || st.Nlink != 1 {
		return fmt.Errorf("keep room for the CAS: %s is no file of its own", f.Name())
	}

	err = errors.Join(
		f.Chown(c.uid, c.uid),
		unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, info.Size()+casRoom),
	)
	if err != nil {
		return fmt.Errorf("keep room for the CAS: %w", err)
	}
	return nil
}
