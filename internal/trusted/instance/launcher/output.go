package launcher

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// KeepOutput keeps the process's standard output and error readable for as long
// as the process lives, whoever else reads them: it holds their reading ends
// too, and never reads. Without that, the death of the node's log writer would
// make every later line of the app a broken pipe, of which many programs die.
// So the pipe only fills up until a new writer has taken over, by way of this
// process's descriptors.
//
// The app doesn't inherit those ends. What is no pipe stays as it is.
func KeepOutput() {
	for _, fd := range []int{1, 2} {
		_ = keepReadable(fd) // without it the app runs as well
	}
}

// keepReadable opens the reading end of a pipe of which fd is the other, and
// keeps it: a bare descriptor has no finalizer that could close it.
func keepReadable(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil
	}
	_, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	return err
}
