package procfs

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// eventually waits for what the kernel does in its own time.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func TestStates(t *testing.T) {
	idle := exec.Command("sleep", "1000")
	busy := exec.Command("sh", "-c", "while :; do :; done")
	for _, c := range []*exec.Cmd{idle, busy} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	}
	pid := idle.Process.Pid
	eventually(t, "one that sleeps works", func() bool { return !AtWork(pid) && !Stopped(pid) })
	eventually(t, "one that turns does not work", func() bool { return AtWork(busy.Process.Pid) })
	eventually(t, "one that turns needs no time", func() bool { s, err := Of(busy.Process.Pid); return err == nil && s.CPU > 0 })

	if err := idle.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is not stopped", func() bool { return Stopped(pid) && !AtWork(pid) })
	before, err := Of(pid)
	if err != nil || before.Start == 0 {
		t.Fatalf("%+v, %v", before, err)
	}
	if err := idle.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is still stopped", func() bool { return !Stopped(pid) })

	if err := idle.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one that ended and is not reaped is there", func() bool {
		_, err := Of(pid)
		return errors.Is(err, fs.ErrNotExist)
	})
	if Stopped(pid) || AtWork(pid) || !AtWork(os.Getpid()) {
		t.Error("the wrong one is at work")
	}
}
