package netcheck

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// space is a network namespace without a name. A thread holds it: it vanishes,
// with its end of every link, when it is closed or this process ends.
type space struct {
	calls chan func()
	fd    int
}

// newSpace makes a namespace and the thread that holds it.
func newSpace() (*space, error) {
	s := &space{calls: make(chan func())}
	ready := make(chan error)
	go s.hold(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}

	return s, nil
}

// hold runs the namespace's calls on a thread of its own, until it is closed.
func (s *space) hold(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// Others take the first thread's namespace for the whole process's: it is
		// kept until another one was found.
		defer runtime.UnlockOSThread()
		found := make(chan error)
		go s.hold(found)
		ready <- <-found
		return
	}

	// Never unlocked: the thread ends with this goroutine.
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}

	ready <- err
	if err != nil {
		return
	}

	for call := range s.calls {
		call()
	}
}

// close lets the thread end, and with it the namespace.
func (s *space) close() {
	close(s.calls)
	_ = unix.Close(s.fd)
}

// do runs f in the namespace: the sockets that it opens are there for good.
func (s *space) do(f func() error) error {
	done := make(chan error, 1)
	s.calls <- func() { done <- f() }
	return <-done
}
