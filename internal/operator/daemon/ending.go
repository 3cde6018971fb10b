package daemon

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// endingLimit is how long a process may still be seen after it gave its lock back.
const endingLimit = 10 * time.Second

// ending watches for the end of one process, by a descriptor that never means
// another one. The zero value watches nobody.
type ending struct{ pidfd int }

// watchEnd begins to watch a process that runs.
func watchEnd(pid int) ending {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return ending{} // it has ended already, or can't be watched
	}
	return ending{fd}
}

// wait returns when the process has ended. It gave its lock back before, and has
// nothing left to do: one that stays nevertheless is waited for a while only.
func (e ending) wait(ctx context.Context) {
	if e.pidfd == 0 {
		return
	}

	for deadline := time.Now().Add(endingLimit); ctx.Err() == nil && time.Now().Before(deadline); {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(e.pidfd), Events: unix.POLLIN}}, 100) //nolint:gosec // descriptors are small
		if n > 0 || err != nil && err != unix.EINTR {
			return
		}
	}
}

// forget closes the descriptor.
func (e ending) forget() {
	if e.pidfd != 0 {
		_ = unix.Close(e.pidfd)
	}
}
