package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces path durably: when it returns, the content survives a crash of
// the machine.
func Write(path string, b []byte, mode os.FileMode) error {
	return place(path, b, mode, true, os.Rename)
}

// Replace is Write that a crash of the machine may undo, and never leave half: for
// what changes often and can be found out again.
func Replace(path string, b []byte, mode os.FileMode) error {
	return place(path, b, mode, false, os.Rename)
}

// Create is Write of a file that must not be there yet: of two at once, one
// gets an error that is fs.ErrExist.
func Create(path string, b []byte, mode os.FileMode) error {
	return place(path, b, mode, true, os.Link)
}

func place(path string, b []byte, mode os.FileMode, durable bool, move func(from, to string) error) error {
	fail := func(err error) error { return fmt.Errorf("write %s: %w", path, err) }
	dir := filepath.Dir(path)

	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fail(err)
	}
	defer os.Remove(tmp.Name()) // gone already after a rename

	_, err = tmp.Write(b)
	err = errors.Join(err, tmp.Chmod(mode))
	if err == nil {
		err = tmp.Sync() // before it has its name: a name without content is worse than none
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return fail(err)
	}

	if err := move(tmp.Name(), path); err != nil {
		return fail(err)
	}

	if !durable {
		return nil
	}

	if err := SyncDir(dir); err != nil {
		return fail(err)
	}
	return nil
}

// SyncDir makes durable which names a directory has.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}

	return errors.Join(d.Sync(), d.Close())
}
