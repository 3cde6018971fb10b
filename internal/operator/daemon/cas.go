package daemon

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/procfs"
)

// Attester answers the CAS on a connection that only that process has.
type Attester interface {
	ServeConn(ctx context.Context, conn net.Conn, measurement ident.Measurement) error
}

// casReady is the line that a CAS writes when it serves, or else why it doesn't.
type casReady struct {
	Owners    string         `json:"owners"`
	Instances string         `json:"instances"`
	Identity  ident.KeyHash  `json:"identity"`
	Problem   *problem.Error `json:"problem,omitempty"`
}

// casProcess keeps one cupel-cas running.
type casProcess struct {
	binary   string
	dir      string // the CAS's own folder
	uid      int
	args     []string // besides addresses and descriptors
	logs     io.Writer
	attester Attester
	log      *slog.Logger
	started  func(pid int) error // is told each process before it serves; nil: nobody is
	patience time.Duration       // with one that does not answer; 0: watchdog.Patience
	tell     func(manager.Incident)
	troubles *manager.Troubles

	owners, instances string // addresses to listen on; the real ones after the first start

	mu  sync.Mutex
	pid int
}

// running is one life of the process.
type running struct {
	ready casReady
	pid   int
	exit  chan error   // gets the process's end
	stop  func()       // has it end, and waits for that
	kill  func() error // ends it at once
}

// casStopTimeout is how long a CAS may take to end.
const casStopTimeout = 10 * time.Second

// start executes the binary and waits until it serves.
func (c *casProcess) start(ctx context.Context) (*running, error) {
	binary, measurement, err := openMeasured(c.binary)
	if err != nil {
		return nil, err
	}
	defer func() { _ = binary.Close() }()

	if err := c.makeRoom(); err != nil { // the CAS says it itself if it finds none
		c.log.WarnContext(ctx, "the CAS may find no room on a full disk", "error", err)
	}

	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }()

	readyR, readyW, err := os.Pipe()
	if err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("start the CAS: %w", err)
	}
	defer func() { _ = readyR.Close() }()
	stderrR, stderrW, err := os.Pipe()
	if err != nil {
		_ = ours.Close()
		_ = readyW.Close()
		return nil, fmt.Errorf("start the CAS: %w", err)
	}

	cmd := &exec.Cmd{
		// The very file that was hashed, whatever its name leads to by now.
		Path: fmt.Sprintf("/proc/self/fd/%d", binary.Fd()),
		Args: append([]string{"cupel-cas", "--state", c.dir, "--owners", c.owners, "--instances", c.instances,
			"--evidence-fd", "3", "--ready-fd", "4"}, c.args...),
		Env:         []string{"LANG=C.UTF-8"},
		Dir:         c.dir,
		Stdout:      stderrW,
		Stderr:      stderrW,
		ExtraFiles:  []*os.File{theirs, readyW}, // descriptors 3 and 4
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.uid)}},
	}

	err = cmd.Start()
	_ = readyW.Close()
	_ = stderrW.Close()
	if err != nil {
		_ = ours.Close()
		_ = stderrR.Close()
		return nil, fmt.Errorf("start the CAS: %w", err)
	}

	if c.started != nil {
		if err := c.started(cmd.Process.Pid); err != nil {
			_ = ours.Close()
			_ = stderrR.Close()
			return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
		}
	}

	c.mu.Lock()
	c.pid = cmd.Process.Pid
	c.mu.Unlock()

	r := c.watch(ctx, cmd, ours, stderrR, measurement)
	if err := c.await(ctx, r, readyR); err != nil {
		r.stop()
		return nil, err
	}

	// From now on always the same, whatever was free at first.
	c.owners, c.instances = r.ready.Owners, r.ready.Instances
	return r, nil
}

// watch serves the CAS that was started, keeps what it says, and tells how it ended.
func (c *casProcess) watch(ctx context.Context, cmd *exec.Cmd, ours net.Conn, stderr *os.File, measurement ident.Measurement) *running {
	r := &running{pid: cmd.Process.Pid, exit: make(chan error, 1), kill: cmd.Process.Kill}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	tail := &lastLine{}
	copied := make(chan struct{})

	go func() {
		defer close(copied)
		_, _ = io.Copy(lossy{c.logs}, io.TeeReader(stderr, tail))
		_ = stderr.Close()
	}()

	go func() { _ = c.attester.ServeConn(serving, ours, measurement); _ = ours.Close() }()
	go func() {
		err := cmd.Wait()
		cancel()
		<-copied
		end := fmt.Errorf("the CAS ended (%w)", orExit(err))
		if said := tail.String(); said != "" {
			end = fmt.Errorf("%w: %s", end, said)
		}
		r.exit <- end
	}()

	r.stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case end := <-r.exit:
			r.exit <- end
		case <-time.After(casStopTimeout):
			_ = cmd.Process.Kill()
			r.exit <- <-r.exit // until it has ended; stop may be called again
		}
	}

	return r
}

// orExit is how a process ended, also where that is no error.
func orExit(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// await reads the ready line. A CAS reads its whole log first, which takes as long as
// it takes.
func (c *casProcess) await(ctx context.Context, r *running, pipe *os.File) error {
	line := make(chan error, 1)
	said := make(chan struct{})
	go func() {
		defer close(said)
		b, err := bufio.NewReader(pipe).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(b, &r.ready)
		}
		line <- err
	}()

	waiting, end := context.WithCancel(ctx)
	defer end()
	hung := make(chan error, 1)
	go func() {
		p := c.watched(r, func(ctx context.Context) error {
			select {
			case <-said:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err := p.Watch(waiting, func(error) {}); err != nil {
			hung <- err
		}
	}()

	select {
	case err := <-line:
		if err == nil && r.ready.Problem == nil {
			return nil
		}

		// It is about to end, however long that takes.
		if p := r.ready.Problem; err == nil && p.Rule != problem.RuleInternal {
			p.Actual = "the CAS does not come up: " + p.Actual
			return p
		}

		if err == nil {
			err = r.ready.Problem
		} else {
			err = fmt.Errorf("it said nothing sensible: %w", err)
		}

		select {
		case end := <-r.exit:
			r.exit <- end
			err = end
		case <-time.After(casStopTimeout):
		}

		return problem.New(problem.Unavailable, ruleCASStart, "the CAS does not come up: %w", err).Fix("read the CAS's log under the state folder, mend that, then run cupel up again")
	case err := <-hung:
		return problem.New(problem.Unavailable, ruleCASStart, "the CAS hangs while it starts: %w", err).
			Want("an answer, or work").Fix("read the CAS's log under the state folder, then run cupel up again")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run keeps the CAS running: started again when it ends, sooner or later by how
// often it did, and when it hangs. It returns when ctx ends, with the CAS stopped.
func (c *casProcess) run(ctx context.Context, r *running) error {
	pauses := backoff.ExponentialBackOff{InitialInterval: 100 * time.Millisecond, Multiplier: 2, MaxInterval: 30 * time.Second}
	for {
		began := time.Now()
		ended := c.guard(ctx, r)
		if ctx.Err() != nil {
			r.stop()
			return nil
		}

		c.log.WarnContext(ctx, "CAS ended", "error", ended)
		if time.Since(began) > time.Minute {
			pauses.Reset()
		}

		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pauses.NextBackOff()):
			}

			next, err := c.start(ctx)
			if ctx.Err() == nil {
				c.troubles.Note("start the CAS", "", err)
			}
			if err == nil {
				c.log.InfoContext(ctx, "CAS started again")
				r = next
				break
			}
			c.log.ErrorContext(ctx, "CAS does not start", "error", err)
		}
	}
}

// guard returns when the CAS has ended, or ctx ends. It ends a CAS that hangs, and tells why
// either of them ended.
func (c *casProcess) guard(ctx context.Context, r *running) error {
	watching, end := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer end()

	var hangs atomic.Bool
	watch.Go(func() {
		answered := func(err error) { c.troubles.Note("ask the CAS", "", err) }
		if hung := c.watched(r, r.answers).Watch(watching, answered); hung != nil {
			hangs.Store(true)
			c.tell(manager.Incident{Warning: true, Reason: string(ruleCASHangs), Message: hung.Error() +
				": it is ended and started again. Apps go on, and the time without a CAS counts against nobody"})
			_ = r.kill() // fails for one that has just ended
		}
	})

	select {
	case err := <-r.exit:
		r.exit <- err // stop may be called all the same
		if ctx.Err() == nil && !hangs.Load() {
			c.tell(manager.Incident{Warning: true, Reason: reasonCASEnded, Message: err.Error() +
				": it is started again. Apps go on, and the time without a CAS counts against nobody"})
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// casEnds reports whether a CAS of an earlier cupeld's is still there. It ends as
// soon as it sees that it has nobody to attest it any more; one that was stopped sees
// nothing, and is ended.
func (l layout) casEnds() bool {
	left := false
	for _, p := range l.processes() {
		if p.name != "cupel-cas" {
			continue
		}

		left = true
		if procfs.Stopped(p.pid) {
			_ = syscall.Kill(p.pid, syscall.SIGKILL) // fails for one that has just ended
		}
	}
	return left
}

// processID is the number of the CAS that was started last.
func (c *casProcess) processID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid
}

// openMeasured opens a binary and hashes what the descriptor shows. The number
// is high, so that it collides with none that the child inherits.
func openMeasured(path string) (*os.File, ident.Measurement, error) {
	var m ident.Measurement
	f, err := os.Open(path)
	if err != nil {
		return nil, m, problem.New(problem.Unavailable, ruleCASMissing, "open the CAS's binary: %w", err).
			Fix("build it (make build) and keep cupel-cas beside cupeld")
	}
	defer func() { _ = f.Close() }()

	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, m, fmt.Errorf("measure the CAS: %w", err)
	}
	copy(m[:], h.Sum(nil))

	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 100)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EMFILE) {
		return nil, m, problem.New(problem.Unavailable, problem.RuleOpenFiles, "cupeld may not have enough files open: %w", err).
			Want("a limit of 4096 or more").
			Fix("raise it before cupel up: ulimit -n 4096; under systemd: LimitNOFILE=65536")
	}
	if err != nil {
		return nil, m, fmt.Errorf("measure the CAS: %w", err)
	}

	return os.NewFile(uintptr(fd), path), m, nil
}

// socketPair is the connection on which the CAS is attested: our end, and the one that it inherits.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket to the CAS: %w", err)
	}

	ours, theirs := os.NewFile(uintptr(fds[0]), "cas"), os.NewFile(uintptr(fds[1]), "las")
	conn, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("socket to the CAS: %w", err)
	}
	return conn, theirs, nil
}

// lossy drops what can't be written: a full disk costs log lines, while a
// reader that stopped would cost the CAS, by SIGPIPE.
type lossy struct{ w io.Writer }

func (l lossy) Write(b []byte) (int, error) {
	_, _ = l.w.Write(b)
	return len(b), nil
}

// lastLine keeps the last full line that passed.
type lastLine struct {
	mu         sync.Mutex
	last, part []byte
}

func (l *lastLine) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range b {
		switch {
		case c != '\n' && len(l.part) < 4096:
			l.part = append(l.part, c)
		case c == '\n':
			if len(l.part) > 0 {
				l.last = append(l.last[:0], l.part...)
			}
			l.part = l.part[:0]
		}
	}
	return len(b), nil
}

func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.last)
}
