package logfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/procfs"
	"cupel.dev/cupel/internal/trusted/filelock"
)

// lockName is the file that the writer process of a folder keeps locked.
const lockName = "writer"

// errLocked says that a folder has its writer process.
var errLocked = errors.New("log writer: another one writes there")

// lockFolder makes the calling process the folder's writer until the file is
// closed, which the kernel does for a process that dies.
func lockFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make log folder: %w", err)
	}

	path := filepath.Join(dir, lockName)
	moveNonFile(path)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NONBLOCK, 0o600)
	if errors.Is(err, fs.ErrPermission) { // it can't be written, and is locked all the same
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("lock log folder: %w", err)
	}

	if err := filelock.Try(f); err != nil {
		_ = f.Close()
		if errors.Is(err, filelock.ErrHeld) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock log folder: %w", err)
	}

	// For people and for Process. A full disk is no reason to write no log.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
	}
	return f, nil
}

// moveNonFile moves away what is no file where the lock has to be.
func moveNonFile(path string) (moved bool) {
	return notAFile(path) && os.Rename(path, path+".damaged") == nil
}

// Process is the folder's writer process; 0: there is none, or one of an earlier
// release, which didn't say.
func Process(dir string) int {
	path := filepath.Join(dir, lockName)
	if notAFile(path) {
		return 0
	}

	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}

	pid, err := strconv.Atoi(string(b))
	if err != nil || pid <= 1 {
		return 0
	}

	c, ok := procfs.CommandOf(pid)
	itsFolder := func(arg string) bool { return strings.HasSuffix(arg, ":"+dir) }
	if !ok || !slices.Contains(c.Args, Verb) || !slices.ContainsFunc(c.Args, itsFolder) {
		return 0
	}
	return pid
}

// Abandoned tells whether the folder's writer process died before the output
// that it wrote had ended. A folder that never had one is not abandoned.
func Abandoned(dir string) (bool, error) {
	if exists(filepath.Join(dir, endMark)) {
		return false, nil
	}

	path := filepath.Join(dir, lockName)
	if moveNonFile(path) {
		return true, nil
	}

	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at log folder: %w", err)
	}
	defer f.Close()

	// Shared: two who look don't take each other for a writer.
	switch err := filelock.TryShared(f); {
	case errors.Is(err, filelock.ErrHeld):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look at log folder: %w", err)
	}
	return true, nil
}

// Resume starts a writer process for an abandoned folder, with the reading ends
// of the instance's stdout and stderr. It returns when that process holds the
// folder, or has failed to. The process outlives the caller, as the one that the
// shim started does; the caller closes its own descriptors.
func Resume(program, dir string, limits Limits, stdout, stderr *os.File) error {
	ready, started, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("resume log: %w", err)
	}
	defer ready.Close()

	cmd := exec.Command(program, Verb, argument(dir, limits))
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{stdout, stderr, started}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}

	err = cmd.Start()
	_ = started.Close()
	if err != nil {
		return fmt.Errorf("resume log: %w", err)
	}

	go func() { _ = cmd.Wait() }()
	_, _ = ready.Read(make([]byte, 1)) // its end, when the process closes it or ends

	if abandoned, err := Abandoned(dir); err != nil || abandoned {
		return errors.Join(errors.New("resume log: the log writer ended at once"), err)
	}
	return nil
}
