package daemon

import (
	"bufio"
	"bytes"
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

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/atomicfile"
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
// One that ends is waited for, which tell hears; nil: nobody does.
func Detach(ctx context.Context, state string, args []string, tell func(string)) (Started, error) {
	return detach(ctx, state, args, readyTimeout, tell)
}

// detach is Detach with another patience.
func detach(ctx context.Context, state string, args []string, patience time.Duration, tell func(string)) (Started, error) {
	l, err := newLayout(state)
	if err != nil {
		return Started{}, err
	}

	if err := l.check(); err != nil {
		return Started{}, err
	}

	if away := l.displaced(); away != nil {
		return Started{}, away.problem()
	}

	if err := l.makeFolder(); err != nil {
		return Started{}, err
	}
	if l, err = newLayout(state); err != nil {
		return Started{}, err
	}

	for deadline := time.Now().Add(patience); ; {
		lock, err := l.makeInTurn(ctx, deadline, tell)
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
	return problem.New(problem.Unavailable, ruleNotReady, "cupeld (process %d) serves nothing yet after %s, and goes on", pid, problem.Duration(patience)).
		Fix("run this again, which waits for it; or see what it does in %s; cupel down ends it", l.path("log"))
}

// serves reports whether the cupeld that holds the lock is ready. One that is still
// starting may fail, and then the next in line has its turn.
func (l layout) serves(held *lockedError) bool {
	e, err := client.ReadEndpoint(l.dir)
	return err == nil && e.PID == held.pid
}

// spawn starts a cupeld that holds our lock.
func (l layout) spawn(ctx context.Context, lock *stateLock, args []string, patience time.Duration) (Started, error) {
	defer lock.release() // which leaves it with who shares the descriptor
	repaired := l.mend(l.logs())

	self, err := os.Executable()
	if err != nil {
		return Started{}, fmt.Errorf("find this program: %w", err)
	}

	r, w, err := os.Pipe()
	if err != nil {
		return Started{}, fmt.Errorf("detach: %w", err)
	}
	defer func() { _ = r.Close() }()

	stray, err := l.openStray()
	if err != nil {
		return Started{}, err
	}
	defer func() { _ = stray.Close() }()

	args = append(args, "--detached-fd", "3", "--lock-fd", "4")
	for _, message := range repaired {
		args = append(args, "--repaired="+message)
	}

	cmd := exec.Command(self, args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout = stray
	cmd.Stderr = stray
	cmd.ExtraFiles = []*os.File{w, lock.f} // descriptors 3 and 4
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
			_ = cmd.Wait() // its state says how it ended
			return Started{}, l.endedEarly(cmd.ProcessState, stray)
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

// openStray opens the file for what no logger writes: a panic of the runtime, which the
// next start keeps. Where it can't be written, it has no name, and goes with cupeld.
func (l layout) openStray() (*os.File, error) {
	err := errors.Join(os.MkdirAll(l.path("log"), 0o755), setAside(l.strayLog(), 1))
	if err == nil {
		var f *os.File
		if f, err = openLog(l.strayLog()); err == nil {
			return f, nil
		}
	}

	fd, err := unix.MemfdCreate("cupeld.stderr", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("detach: %w", err)
	}
	return os.NewFile(uintptr(fd), "cupeld.stderr"), nil
}

// endedEarly is the refusal where a cupeld ended before it served or said why not.
func (l layout) endedEarly(how *os.ProcessState, stray *os.File) *problem.Error {
	said := "and said nothing"
	if b, err := atomicfile.Read(fmt.Sprintf("/proc/self/fd/%d", stray.Fd())); err == nil && len(bytes.TrimSpace(b)) > 0 {
		said = "and said: " + lastWords(string(b))
	}
	p := problem.New(problem.Internal, ruleCupeldEnded, "cupeld ended before it served (%v), %s", how, said)

	if status, ok := how.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return p.Fix("run this again; where nobody killed it, the kernel did for want of memory (dmesg): its log is in %s", l.path("log"))
	}
	return p.Fix("read cupeld.log and cupeld.stderr in %s", l.path("log"))
}

// lastWords are what a program said of its end: what the runtime says of a panic stands
// before where it was.
func lastWords(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for _, line := range lines {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			return line
		}
	}
	return lines[len(lines)-1]
}
