package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	wire "cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/problem"
)

// outcome is the line in which a detached cupeld tells how its start went.
type outcome struct {
	Serving *Serving       `json:"serving,omitempty"`
	Problem *problem.Error `json:"problem,omitempty"`
}

// Started is what Detach made.
type Started struct {
	State string
	Serving
}

// readyTimeout is how long a detached cupeld is waited for.
const readyTimeout = 2 * time.Minute

// Detach runs this program again with args, in a session of its own, and returns
// when that one serves, or with its error. A cupeld that runs already is an error:
// of several at once, one starts and the others say so, as soon as it serves.
func Detach(ctx context.Context, state string, args []string) (Started, error) {
	return detach(ctx, state, args, readyTimeout)
}

func detach(ctx context.Context, state string, args []string, patience time.Duration) (Started, error) {
	l, err := newLayout(state)
	if err != nil {
		return Started{}, err
	}
	if err := l.check(); err != nil {
		return Started{}, err
	}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return Started{}, l.refuseFolder(err)
	}
	if l, err = newLayout(state); err != nil {
		return Started{}, err
	}
	for deadline := time.Now().Add(patience); ; {
		lock, err := l.make()
		if err == nil {
			return l.spawn(ctx, lock, args, patience)
		}
		held, ok := errors.AsType[*lockedError](err)
		switch {
		case !ok:
			return Started{}, err
		case l.serves(held) || held.what != workUp || held.stopped() != nil:
			return Started{}, held
		case time.Now().After(deadline):
			return Started{}, l.notReady(held.pid, patience)
		}
		select {
		case <-ctx.Done():
			return Started{}, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// notReady says of a cupeld that takes its time that it goes on.
func (l layout) notReady(pid int, patience time.Duration) *problem.Error {
	return problem.New(problem.Unavailable, "not_ready", "cupeld (process %d) serves nothing yet after %s, and goes on", pid, problem.Duration(patience)).
		Fix("run this again, which waits for it; or see what it does in %s; cupel down ends it", l.path("log"))
}

// serves reports whether the cupeld that holds the lock is ready. One that is still
// starting may fail, and then the next in line has its turn.
func (l layout) serves(held *lockedError) bool {
	e, err := wire.ReadEndpoint(l.dir)
	return err == nil && e.PID == held.pid
}

// spawn starts a cupeld that holds our lock.
func (l layout) spawn(ctx context.Context, lock *stateLock, args []string, patience time.Duration) (Started, error) {
	defer lock.release() // which leaves it with who shares the descriptor
	if err := os.MkdirAll(l.path("log"), 0o755); err != nil {
		return Started{}, l.refuseFolder(err)
	}
	self, err := os.Executable()
	if err != nil {
		return Started{}, fmt.Errorf("find this program: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return Started{}, fmt.Errorf("detach: %w", err)
	}
	defer func() { _ = r.Close() }()
	// For what no logger writes: a panic of the runtime, which the next start keeps.
	if err := setAside(l.strayLog(), 1); err != nil {
		return Started{}, l.refuseFolder(fmt.Errorf("detach: %w", err))
	}
	stray, err := os.OpenFile(l.strayLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return Started{}, l.refuseFolder(fmt.Errorf("detach: %w", err))
	}
	defer func() { _ = stray.Close() }()
	cmd := exec.Command(self, append(args, "--detached-fd", "3", "--lock-fd", "4")...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = stray, stray, []*os.File{w, lock.f}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return Started{}, fmt.Errorf("detach: %w", err)
	}
	line := make(chan []byte, 1)
	go func() {
		b, _ := bufio.NewReader(io.LimitReader(r, 1<<20)).ReadBytes('\n')
		line <- b
	}()
	var out outcome
	select {
	case b := <-line:
		if json.Unmarshal(b, &out) != nil || out.Serving == nil && out.Problem == nil {
			_ = cmd.Wait()
			said, _ := os.ReadFile(stray.Name())
			return Started{}, problem.New(problem.Internal, "cupeld_ended", "cupeld ended without a word: %s", lastOf(string(said))).
				Fix("read %s", l.path("log"))
		}
	case <-time.After(patience):
		return Started{}, l.notReady(cmd.Process.Pid, patience)
	case <-ctx.Done():
		// Who gives up waiting gave up starting.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		return Started{}, ctx.Err()
	}
	if out.Problem != nil {
		_ = cmd.Wait()
		return Started{}, out.Problem
	}
	return Started{State: l.dir, Serving: *out.Serving}, cmd.Process.Release()
}

func lastOf(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
