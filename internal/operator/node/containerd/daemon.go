package containerd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/operator/watchdog"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// reasonEnded is the event that tells of a containerd that ended by itself.
const reasonEnded = "containerd_ended"

const (
	stopTimeout = 10 * time.Second // of one signal, before the next is sent
	// maxSocketPath is what the kernel takes, less what containerd appends.
	maxSocketPath = 107 - len(".ttrpc")
)

// DaemonConfig says where a private daemon lives.
type DaemonConfig struct {
	Dir    string // absolute; everything of the daemon is below
	ID     string // short and unique on the machine; names what can't be in Dir
	Logger *slog.Logger
	// Started is told each process that was started, before it starts others, and the
	// one that was taken over: to move it to a control group. Nil: it stays in its
	// parent's.
	Started func(pid int) error
	// Patience is how long a question may stay without an answer before a daemon that
	// does nothing is taken for hung, and started anew; zero: watchdog.Patience.
	Patience time.Duration
	// StartLimit is how long Open waits for a daemon that still loads what ran before
	// it takes questions; zero: 90 s. The daemon goes on after it.
	StartLimit time.Duration
	// Tell is told that a daemon hung or ended by itself and is started anew, or that a
	// shim of it was let go on, with the event's reason; optional.
	Tell func(reason, message string)
	// Asked is told how each question went that did not show a hung daemon: nil, or why
	// there is no answer; optional.
	Asked func(error)
	// Unlogged is told why containerd was started without its log; optional.
	Unlogged func(error)
}

// Daemon is the private containerd.
type Daemon struct {
	cfg DaemonConfig

	mu      sync.Mutex
	pid     int  // of the process that runs, or ran last
	told    int  // the process of whose end was told
	stopped bool // Stop was called: it isn't started again
}

// Open starts the daemon, or takes over the one that runs, and returns when it
// answers. Cancelling ctx ends the waiting, not the daemon.
func Open(ctx context.Context, cfg DaemonConfig) (*Daemon, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("containerd folder %q: want an absolute path", cfg.Dir)
	}

	cfg.Patience = cmp.Or(cfg.Patience, watchdog.Patience)
	cfg.StartLimit = cmp.Or(cfg.StartLimit, 90*time.Second)
	d := &Daemon{cfg: cfg}

	if err := errors.Join(os.MkdirAll(cfg.Dir, 0o711), os.Chmod(cfg.Dir, 0o711)); err != nil {
		return nil, fmt.Errorf("make containerd folder: %w", err)
	}
	if err := d.shorten(); err != nil {
		return nil, err
	}

	pid, err := d.find()
	if err != nil {
		return nil, err
	}
	if pid != 0 {
		adopted, err := d.adopt(ctx, pid)
		if err != nil {
			return nil, err
		}
		if adopted {
			return d.ifWhole(ctx)
		}
	}

	if err := d.start(ctx); err != nil {
		return nil, err
	}
	if err := d.ready(ctx); err != nil {
		return nil, err
	}
	return d.ifWhole(ctx)
}

// adopt takes over the daemon that runs. False without an error says that it is gone:
// it ended, or hung and was ended.
func (d *Daemon) adopt(ctx context.Context, pid int) (bool, error) {
	d.pid = pid

	err := d.ready(ctx)
	hung, hangs := errors.AsType[watchdog.Hung](err)
	switch {
	case err == nil:
		if err := d.tellStarted(pid); err != nil {
			return false, err
		}
		d.cfg.Logger.InfoContext(ctx, "containerd adopted", "pid", pid)
		return true, nil

	case ctx.Err() != nil:
		return false, err
	case d.runningPID() != pid:
		return false, nil
	case hangs:
		return false, d.endHung(ctx, pid, hung)
	}
	return false, err // it still starts
}

func (d *Daemon) tellStarted(pid int) error {
	if d.cfg.Started == nil {
		return nil
	}
	return d.cfg.Started(pid)
}

// link is where a folder of a long path gets a short name.
func (d *Daemon) link() string { return "/run/cupel-" + d.cfg.ID }

func (d *Daemon) long() bool { return len(d.path("containerd.sock")) > maxSocketPath }

// shorten makes the short name if the sockets need it.
func (d *Daemon) shorten() error {
	if !d.long() {
		return nil
	}

	if to, err := os.Readlink(d.link()); err == nil && to == d.cfg.Dir {
		return nil
	}
	_ = os.Remove(d.link())
	if err := os.Symlink(d.cfg.Dir, d.link()); err != nil {
		return fmt.Errorf("give the containerd folder a short name: %w", err)
	}
	return nil
}

func (d *Daemon) path(parts ...string) string {
	return filepath.Join(append([]string{d.cfg.Dir}, parts...)...)
}

// Address is the daemon's socket.
func (d *Daemon) Address() string {
	if d.long() {
		return filepath.Join(d.link(), "containerd.sock")
	}
	return d.path("containerd.sock")
}

// LogFile is what the daemon appends its log to, without a limit: whoever keeps the
// machine tidy may truncate it.
func (d *Daemon) LogFile() string { return d.path("containerd.log") }

// StateDir is where the daemon keeps the bundles of running tasks.
func (d *Daemon) StateDir() string { return d.path("run") }

// config is containerd's configuration, version 2, which 1.6 and later read.
func (d *Daemon) config() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "version = 2\nroot = %q\nstate = %q\n", d.path("root"), d.StateDir())
	fmt.Fprintf(&b, "disabled_plugins = [%q, %q, %q, %q, %q]\n",
		"io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
		"io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs")
	fmt.Fprintf(&b, "[grpc]\n  address = %q\n", d.Address())
	fmt.Fprintf(&b, "[ttrpc]\n  address = %q\n", d.Address()+".ttrpc")
	fmt.Fprintf(&b, "[debug]\n  level = \"warn\"\n")
	fmt.Fprintf(&b, "[plugins.%q]\n  path = %q\n", "io.containerd.internal.v1.opt", d.path("opt"))
	return b.Bytes()
}

// start starts the daemon's process, which goes on when this one ends.
func (d *Daemon) start(ctx context.Context) error {
	program, err := exec.LookPath("containerd")
	if err != nil {
		return problem.New(problem.Unavailable, ruleContainerdMissing, "start containerd: %w", err).
			Fix("install it: apt-get install --no-remove containerd runc")
	}

	// containerd takes an empty database for a new one, in which nothing is of what its
	// other folders have.
	if info, err := os.Stat(d.database()); err == nil && info.Size() == 0 {
		return d.damaged("It is empty. ")
	}

	if have, err := atomicfile.Read(d.path("config.toml")); err != nil || !bytes.Equal(have, d.config()) {
		if err := atomicfile.Write(d.path("config.toml"), d.config(), 0o600); err != nil {
			return fmt.Errorf("configure containerd: %w", err)
		}
	}

	cmd := exec.Command(program, "--config", d.path("config.toml"))
	cmd.Dir = "/"
	log, err := os.OpenFile(d.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NONBLOCK, 0o600)
	if err == nil {
		defer log.Close()
		cmd.Stdout = log
		cmd.Stderr = log
	} else if d.cfg.Unlogged != nil {
		d.cfg.Unlogged(err)
	}

	// A session of its own: no signal of our terminal or group reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reap it if it ends before us

	if err := d.tellStarted(cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		return err
	}

	d.mu.Lock()
	d.pid = cmd.Process.Pid
	d.mu.Unlock()

	if err := d.notePID(cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		return err
	}
	d.cfg.Logger.InfoContext(ctx, "containerd started", "pid", cmd.Process.Pid)
	return nil
}

func (d *Daemon) lastLog() string {
	b, _ := atomicfile.Read(d.LogFile())
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// Run keeps the daemon running until ctx ends, and leaves it running then.
func (d *Daemon) Run(ctx context.Context) error {
	var guarding sync.WaitGroup
	defer guarding.Wait()
	guarding.Go(func() { d.guard(ctx) })
	guarding.Go(func() { d.wakeShims(ctx) })

	pauses := backoff.ExponentialBackOff{InitialInterval: 100 * time.Millisecond, Multiplier: 2, MaxInterval: 10 * time.Second}
	for {
		began := time.Now()
		d.waitExit(ctx)

		d.mu.Lock()
		pid := d.pid
		told := d.told
		stopped := d.stopped
		d.told = pid
		d.mu.Unlock()

		if ctx.Err() != nil || stopped {
			return nil
		}
		if pid != told {
			d.tell(ctx, reasonEnded, fmt.Sprintf("containerd (process %d) ended: it is started again, apps go on. What it did last: %s", pid, d.LogFile()))
		}

		if time.Since(began) > time.Minute {
			pauses.Reset()
		}
		if err := d.start(ctx); err == nil {
			err = d.ready(ctx)
			if err == nil {
				continue
			}
			d.cfg.Logger.ErrorContext(ctx, "containerd does not start", "error", err)
		}

		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pauses.NextBackOff()):
		}
	}
}

// waitExit returns when the daemon's process is gone or ctx ends.
func (d *Daemon) waitExit(ctx context.Context) {
	d.mu.Lock()
	pid := d.pid
	d.mu.Unlock()

	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil || d.runningPID() != pid {
		if err == nil {
			unix.Close(fd)
		}
		return
	}
	defer unix.Close(fd)

	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200)
		if n > 0 || err != nil && !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

// Stop ends the daemon and what it leaves: sockets, shims that nobody stopped,
// its mounts. Its root, with images, stays.
func (d *Daemon) Stop(ctx context.Context) error {
	d.mu.Lock()
	d.stopped = true
	d.mu.Unlock()

	if pid := d.runningPID(); pid != 0 {
		if err := end(ctx, pid, func() bool { return d.runningPID() == pid }); err != nil {
			return fmt.Errorf("stop containerd: %w", err)
		}
	}

	errs := []error{d.endShims(ctx), node.UnmountBelow(d.StateDir()), os.RemoveAll(d.StateDir())}
	for _, path := range []string{d.path("containerd.pid"), d.path("containerd.sock"), d.path("containerd.sock.ttrpc")} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}

	if to, err := os.Readlink(d.link()); err == nil && to == d.cfg.Dir {
		errs = append(errs, os.Remove(d.link()))
	}

	// Shims put their sockets there; the folders are the machine's, ours only
	// to tidy when nobody else uses them.
	_ = os.Remove("/run/containerd/s")
	_ = os.Remove("/run/containerd")
	return errors.Join(errs...)
}

// end asks a process to end, then ends it.
func end(ctx context.Context, pid int, alive func() bool) error {
	return endBy(ctx, pid, alive, syscall.SIGTERM, syscall.SIGKILL)
}

// endBy sends one signal after the other until the process is gone.
func endBy(ctx context.Context, pid int, alive func() bool, signals ...syscall.Signal) error {
	for _, s := range signals {
		if err := syscall.Kill(pid, s); err != nil {
			if errors.Is(err, syscall.ESRCH) {
				return nil
			}
			return err
		}

		for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); {
			if !alive() {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}
