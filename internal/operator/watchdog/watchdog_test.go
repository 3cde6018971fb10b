package watchdog

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/internal/procfs"
)

const patience = 300 * time.Millisecond

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) int {
	t.Helper()
	c := exec.Command(name, args...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c.Process.Pid
}

// idle runs a program that has begun to do nothing.
func idle(t *testing.T) int {
	t.Helper()
	pid := start(t, "sleep", "1000")
	for procfs.AtWork(pid) {
		time.Sleep(time.Millisecond)
	}
	return pid
}

func watched(pid int, ask func(context.Context) error) Process {
	return Process{Name: "it", Rule: "it_hangs", PID: pid, Ask: ask, Patience: patience}
}

// mute is a process that gets the question and says nothing.
func mute(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestLook(t *testing.T) {
	stopped := idle(t)
	if err := syscall.Kill(stopped, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	answers := func(context.Context) error { return nil }
	refuses := func(context.Context) error { return errors.New("it hung up") }
	unreached := func(ctx context.Context) error { return errors.Join(ErrUnreached, mute(ctx)) }
	for _, c := range []struct {
		name string
		pid  int
		ask  func(context.Context) error
		hung bool
		says string // empty: nothing is wrong
	}{
		{"answers", idle(t), answers, false, ""},
		{"says nothing and does nothing", idle(t), mute, true, "has not answered for 300 ms, and does nothing"},
		{"hangs up", idle(t), refuses, true, "and does nothing"},
		{"is stopped", stopped, mute, true, "and is stopped (SIGSTOP, or a debugger)"},
		{"is stopped behind a firewall", stopped, unreached, true, "and is stopped"},
		{"works", start(t, "sh", "-c", "while :; do :; done"), mute, false, "and works: it is left alone"},
		{"is behind a firewall", idle(t), unreached, false, "can't be reached (not reached"},
		{"has ended", 1 << 22, mute, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := watched(c.pid, c.ask).Look(t.Context())
			if _, hung := errors.AsType[Hung](err); hung != c.hung {
				t.Errorf("hangs: %v", hung)
			}
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

// TestOneThatIsSlow: an answer after the patience's greatest part is one.
func TestOneThatIsSlow(t *testing.T) {
	slow := func(ctx context.Context) error {
		select {
		case <-time.After(patience / 2):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := watched(idle(t), slow).Look(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestWatch: each question is told until the process hangs, has ended, or nobody wants
// to know any more.
func TestWatch(t *testing.T) {
	pid := idle(t)
	asked := 0
	ask := func(ctx context.Context) error {
		if asked++; asked > 2 {
			return mute(ctx)
		}
		return nil
	}
	told := 0
	err := watched(pid, ask).Watch(t.Context(), func(err error) {
		if told++; err != nil {
			t.Errorf("told %v", err)
		}
	})
	if _, hung := errors.AsType[Hung](err); !hung || told != 2 {
		t.Errorf("%v after %d answers", err, told)
	}

	ctx, cancel := context.WithCancel(t.Context())
	if err := watched(pid, func(context.Context) error { cancel(); return nil }).Watch(ctx, func(error) {}); err != nil {
		t.Error(err)
	}
	gone := exec.Command("true")
	if err := gone.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = gone.Wait() }()
	if err := watched(gone.Process.Pid, mute).Watch(t.Context(), func(error) {}); err != nil {
		t.Error(err)
	}
}

// TestTheCallerStandsStill: time for which the one who asks was stopped is none of the
// patience. A process of this test's stops itself while it waits, and the answer comes
// soon after it goes on.
func TestTheCallerStandsStill(t *testing.T) {
	const inside = "CUPEL_WATCHDOG_STANDS_STILL"
	if os.Getenv(inside) != "" {
		answered := make(chan struct{})
		go func() {
			time.Sleep(patience / 5)
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			close(answered)
		}()
		ask := func(ctx context.Context) error {
			select {
			case <-answered:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := watched(idle(t), ask).Look(t.Context()); err != nil {
			t.Error(err)
		}
		return
	}

	c := exec.Command("/proc/self/exe", "-test.run=^TestTheCallerStandsStill$")
	c.Env = append(os.Environ(), inside+"=1")
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !procfs.Stopped(c.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not stop")
		}
	}
	time.Sleep(2 * patience) // for which it stands still
	if err := c.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, &out)
	}
}
