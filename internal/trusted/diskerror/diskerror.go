package diskerror

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
)

// Full says that an error means that there is no room, or no more of a quota.
func Full(err error) bool { return is(err, syscall.ENOSPC) || is(err, syscall.EDQUOT) }

// is also finds the error in the text of one that came from another process.
func is(err error, errno syscall.Errno) bool {
	return errors.Is(err, errno) || err != nil && strings.Contains(err.Error(), errno.Error())
}

// Explain makes a problem of an error of whatever was written below dir, where the disk
// is to blame, also where another rule hides that; name is what the mend calls that
// place. Any other error stays as it is.
func Explain(err error, dir, name string) error {
	if p, ok := errors.AsType[*problem.Error](err); ok && (p.Rule == RuleFull || p.Rule == RuleReadOnly || p.Rule == RuleFails) {
		return err
	}

	switch {
	case err == nil:
		return nil
	case Full(err), fullDatabase(err, dir):
		return problem.New(problem.Unavailable, RuleFull, "%w", err).
			Fix("make room on the disk of %s (df -h and df -i show what is free; a quota may be what is used up), then try again", name)
	case ReadOnly(err), deniedDatabase(err) && readOnly(dir):
		return problem.New(problem.Unavailable, RuleReadOnly, "%w", err).
			Fix("look why the disk of %s takes no writes: dmesg. Where the kernel did that, since it fails: end what uses it, for a state folder by cupel down --force, then umount, fsck, mount, and start again. Else mount it for writing: mount -o remount,rw", name)
	case Fails(err), failedDatabase(err, dir):
		return problem.New(problem.Unavailable, RuleFails, "%w", err).
			Fix("the disk of %s fails, or was taken away: look at dmesg. What was stored there may be whole. End what uses it, for a state folder by cupel down --force, then umount, fsck, mount, and start again; where it is broken, copy to another disk what can still be read, and only what can't be read comes from a backup", name)
	}

	return err
}

// database is an error of SQLite, which keeps the kernel's own to itself.
type database interface {
	error
	Code() int // https://www.sqlite.org/rescode.html
}

const (
	sqliteReadOnly     = 8
	sqliteIOErr        = 10
	sqliteIOErrMemory  = sqliteIOErr | 12<<8
	sqliteCorrupt      = 11
	sqliteFull         = 13
	sqliteCantOpen     = 14
	sqliteNotADB       = 26
	sqliteIOErrShmSize = sqliteIOErr | 19<<8 // no room for the index of its log
)

// codeOf is the code of an error of SQLite; 0, which means none, for any other.
func codeOf(err error) int {
	if e, ok := errors.AsType[database](err); ok {
		return e.Code()
	}
	return 0
}

// fullDatabase says that a database in dir failed for want of room. Where its code may
// have other reasons, it counts what is free for this process's user.
func fullDatabase(err error, dir string) bool {
	switch code := codeOf(err); {
	case code&0xff == sqliteFull, code == sqliteIOErrShmSize:
		return true
	case code&0xff == sqliteIOErr, code&0xff == sqliteCantOpen:
		var fs unix.Statfs_t
		return unix.Statfs(dir, &fs) == nil && (fs.Bavail == 0 || fs.Files > 0 && fs.Ffree == 0)
	}

	return false
}

// failedDatabase says that a database in dir could not be read or written since the disk
// fails. To SQLite a file of which it gets nothing may look as one that is damaged.
func failedDatabase(err error, dir string) bool {
	switch code := codeOf(err); code & 0xff {
	case sqliteIOErr:
		return code != sqliteIOErrMemory
	case sqliteCorrupt, sqliteCantOpen, sqliteNotADB:
		return unreadable(dir)
	}

	return false
}

// unreadable says that the disk gives back nothing of the files in dir. The beginning and
// the end of each tell that of a disk that is gone.
func unreadable(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Fails(err)
	}

	for _, e := range entries {
		if e.Type().IsRegular() && Fails(readEnds(filepath.Join(dir, e.Name()))) {
			return true
		}
	}

	return false
}

func readEnds(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()

	var block [4096]byte

	info, err := f.Stat()

	if err == nil {
		_, err = f.ReadAt(block[:], 0)
	}
	if err == nil {
		_, err = f.ReadAt(block[:], max(0, info.Size()-int64(len(block))))
	}

	return err
}

// Fails says that an error means that the disk did not do what it was told to.
func Fails(err error) bool { return is(err, syscall.EIO) }

// deniedDatabase says that a database could not be written to, for whatever reason.
func deniedDatabase(err error) bool {
	code := codeOf(err) & 0xff
	return code == sqliteReadOnly || code == sqliteIOErr || code == sqliteCantOpen
}

// readOnly says that the file system of dir takes no writes. One that the kernel gave up
// writing to, since it fails, may say so only to who tries.
func readOnly(dir string) bool {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil && fs.Flags&unix.MS_RDONLY != 0 { // the same bit as ST_RDONLY, statfs(2)
		return true
	}

	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600) // a file without a name
	if err == nil {
		_ = unix.Close(fd)
	}

	return errors.Is(err, syscall.EROFS)
}

// ReadOnly says that an error means that the disk takes no writes.
func ReadOnly(err error) bool { return is(err, syscall.EROFS) }

// Free is how many bytes this process's user may still write below dir; false where
// the file system doesn't say.
func Free(dir string) (uint64, bool) {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return 0, false
	}
	return fs.Bavail * uint64(fs.Bsize), true
}
