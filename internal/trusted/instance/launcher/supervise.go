package launcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
)

// signals hands on what the host sends. Before the app runs, a signal that asks
// to end ends the launcher. While it runs, one that asks to end becomes the app's
// stop signal, to its first process alone, and every other is passed on as it is
// and decides nothing. Afterwards nothing may disturb the storing of volumes.
type signals struct {
	ch     chan os.Signal
	cancel context.CancelCauseFunc
	asked  chan struct{} // closed when the app is to end

	mu      sync.Mutex
	pid     int              // the app's first process; 0: not there
	runs    bool             // that process is the app by now, no longer stage 2
	stop    syscall.Signal   // by which the app is told to end
	ending  bool             // the app is to end
	over    bool             // the app is gone
	waiting []syscall.Signal // what came while stage 2 was on its way
	why     *problem.Error   // the instance may not go on; nil: it may
}

// stopped is the cause of a run that was ended before the app began.
type stopped struct{ signal syscall.Signal }

func (s stopped) Error() string { return fmt.Sprintf("stopped by %v before the app ran", s.signal) }

// handleSignals begins; the context ends upon a signal that comes too early.
func handleSignals(ctx context.Context) (context.Context, *signals) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &signals{
		ch:     make(chan os.Signal, 16),
		cancel: cancel,
		asked:  make(chan struct{}),
		stop:   unix.SIGTERM,
	}

	signal.Notify(s.ch, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	go func() {
		for sig := range s.ch {
			s.deliver(sig.(syscall.Signal))
		}
	}()
	return ctx, s
}

// asksToEnd says whether a host that sends sig wants the instance to end.
func asksToEnd(sig syscall.Signal) bool {
	return sig == unix.SIGTERM || sig == unix.SIGINT || sig == unix.SIGQUIT
}

func (s *signals) deliver(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()

	switch {
	case s.over:
	case s.pid > 0 && asksToEnd(sig):
		s.end()
	case s.pid > 0:
		s.send(sig)
	case asksToEnd(sig) || sig == unix.SIGHUP:
		s.cancel(stopped{sig})
	}
}

// halt ends the instance because of p: its app is told to end, and nothing of it
// is kept.
func (s *signals) halt(p *problem.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()

	if s.why == nil {
		s.why = p
	}
	switch {
	case s.over:
	case s.pid > 0:
		s.end()
	default:
		s.cancel(p)
	}
}

// end tells the app to end, once. mu is held.
func (s *signals) end() {
	if s.ending {
		return
	}
	s.ending = true
	close(s.asked)
	s.send(s.stop)
}

// tell sends sig to the app, if it runs.
func (s *signals) tell(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid > 0 {
		s.send(sig)
	}
}

// send signals the first process; stage 2, which would die of it, never gets one.
// mu is held.
func (s *signals) send(sig syscall.Signal) {
	if !s.runs {
		s.waiting = append(s.waiting, sig)
		return
	}
	_ = unix.Kill(s.pid, sig)
}

// start runs f, which starts the app, unless a signal came before. The app is
// told to end by stop.
func (s *signals) start(ctx context.Context, stop syscall.Signal, f func() (int, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}

	pid, err := f()
	s.pid = pid
	s.stop = stop
	return err
}

// running says that stage 2 has become the app: now it gets what was waiting.
func (s *signals) running() {
	s.mu.Lock()
	defer s.mu.Unlock()

	s.runs = true
	for _, sig := range s.waiting {
		if s.pid > 0 {
			_ = unix.Kill(s.pid, sig)
		}
	}
	s.waiting = nil
}

// hold ends the delivery, since the first process is gone. It reports whether the
// stop signal was sent to it.
func (s *signals) hold() (stopped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid, s.over = 0, true
	return s.ending
}

// refused is why the instance may not go on; nil: it may.
func (s *signals) refused() *problem.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

func (s *signals) close() {
	signal.Stop(s.ch)
	close(s.ch)
	s.cancel(nil)
}

// app is the running app (or stage 2 on its way to it).
type app struct {
	pid    int
	result *os.File // what stages 2 and 3 report
	said   []byte   // its beginning, where that was no process
	ended  chan syscall.WaitStatus
	alone  chan struct{} // closed when the launcher has no child left
	view   chan *appView // gets the launcher's view of the app's root; nil: there is none
}

// startApp starts stage 2, hands it the plan and waits for the process that is
// to become the app. It may be called once: from then on one goroutine reaps
// every process of the instance.
func startApp(p *plan) (*app, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("marshal the plan: %w", err)
	}

	planR, planW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer planR.Close()

	resultR, resultW, err := os.Pipe()
	if err != nil {
		_ = planW.Close()
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer resultW.Close()

	view, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		_, _ = planW.Close(), resultR.Close()
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	defer unix.Close(view[1])

	null, err := openNull()
	if err != nil {
		_, _, _ = planW.Close(), resultR.Close(), unix.Close(view[0])
		return nil, err
	}
	defer null.Close()

	pid, err := syscall.ForkExec("/proc/self/exe", []string{"/cupel-init", "stage2"}, &syscall.ProcAttr{
		Env:   []string{},
		Files: []uintptr{null.Fd(), 1, 2, planR.Fd(), resultW.Fd(), uintptr(view[1])},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Setsid: true},
	})
	if err != nil {
		_, _, _ = planW.Close(), resultR.Close(), unix.Close(view[0])
		return nil, fmt.Errorf("start stage 2: %w", err)
	}

	a := &app{
		pid:    pid,
		result: resultR,
		ended:  make(chan syscall.WaitStatus, 1),
		alone:  make(chan struct{}),
		view:   make(chan *appView, 1),
	}

	go func() { a.view <- receiveView(view[0]) }()
	go func() {
		_, _ = planW.Write(b) // stage 2 that ends early is told by its result
		_ = planW.Close()
		clear(b)
	}()

	_, _ = planR.Close(), resultW.Close() // so that the ends of stage 2 and 3 are seen
	if pid, a.said, err = appPID(resultR); err != nil {
		_ = resultR.Close()
		return nil, err
	}

	if pid != 0 {
		a.pid = pid // a child of this process, like stage 2, which ends
	}

	go a.reap()
	return a, nil
}

// reap waits for every child, the app's orphans included, until none is left.
func (a *app) reap() {
	defer close(a.alone)
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return
		case pid == a.pid && (status.Exited() || status.Signaled()):
			a.ended <- status
		}
	}
}

// ready waits until stage 2 has become the app, or returns why it did not and
// the exit code for that.
func (a *app) ready() (code int, err error) {
	defer a.result.Close()
	b, err := io.ReadAll(io.LimitReader(a.result, 64<<10))
	if err != nil {
		return exitRefused, fmt.Errorf("read the report of stages 2 and 3: %w", err)
	}

	b = append(a.said, b...)

	marked := len(b) > 0 && b[0] == readyMark
	if marked {
		b = b[1:]
	}

	if marked && len(b) == 0 {
		return 0, nil
	}

	var r result
	if json.Unmarshal(b, &r) != nil || r.Problem == nil {
		return exitRefused, problem.New(problem.Internal, ruleStage2, "stage 2 ended without a word").
			Fix("see whether the memory limit leaves room for the app to start")
	}
	return r.Code, r.Problem
}

// sweep ends what an app that never ran left behind and returns when all is gone.
func (a *app) sweep() {
	_ = unix.Kill(-1, unix.SIGKILL)
	<-a.alone
}

// Exit codes of the launcher's own; see the package comment.
const (
	exitRefused       = 125
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // and the signal's number
)

// exitCode maps how a process ended.
func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return exitSignal + int(s.Signal())
	}
	return s.ExitStatus()
}
