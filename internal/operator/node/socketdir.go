package node

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ListenUnix listens on a socket called name in dir, whatever the length of
// dir: the kernel takes 107 bytes of path, so it gets one through a descriptor.
// A socket that is there is replaced; closing the listener leaves the file.
func ListenUnix(dir, name string) (*net.UnixListener, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", dir, err)
	}
	defer unix.Close(fd)

	path := fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen in %s: remove the old socket: %w", dir, err)
	}

	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", filepath.Join(dir, name), err)
	}

	l.SetUnlinkOnClose(false) // the path is another directory's by then
	if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", filepath.Join(dir, name), err)
	}
	return l, nil
}
