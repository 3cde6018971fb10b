package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/proc"
	"cupel.dev/cupel/internal/trusted/problem"
)

// supervise runs a CAS until the test ends, and returns what it tells.
func supervise(t *testing.T, c *casProcess) (first int, told chan manager.Incident) {
	t.Helper()
	told = make(chan manager.Incident, 100)
	c.tell = func(in manager.Incident) { told <- in }
	c.troubles = &manager.Troubles{Tell: c.tell}
	r, err := c.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.run(ctx, r) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r.pid, told
}

func (c *casProcess) awaitOther(t *testing.T, than int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); c.process() == than; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still the CAS", than)
		}
	}
}

// TestCASHangs: a CAS that runs and answers nothing, as one that was stopped, is ended
// and started again, and it is told.
func TestCASHangs(t *testing.T) {
	for name, hang := range map[string]func(dir string, pid int) error{
		"stopped": func(_ string, pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) },
		"deaf":    func(string, int) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := fakeCAS(t)
			deaf := filepath.Join(c.dir, "deaf")
			if name == "deaf" {
				if err := os.WriteFile(deaf, nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			first, told := supervise(t, c)
			_ = os.Remove(deaf)
			if err := hang(c.dir, first); err != nil {
				t.Fatal(err)
			}
			c.awaitOther(t, first)
			in := <-told
			if in.Reason != "cas_hangs" || !in.Warning || !strings.Contains(in.Message, "has not answered for 1 second") ||
				!strings.Contains(in.Message, "it is ended and started again. Apps go on") {
				t.Errorf("%+v", in)
			}
			if _, err := proc.Of(first); err == nil {
				t.Error("it is still there")
			}
		})
	}
}

// TestCASHangsWhileItStarts: nobody waits for it for ever, and it is tried again.
func TestCASHangsWhileItStarts(t *testing.T) {
	c, _ := fakeCAS(t)
	hangs := filepath.Join(c.dir, "hangs")
	first, told := supervise(t, c)
	if err := os.WriteFile(hangs, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	in := <-told
	if in.Reason != manager.ReasonTrouble || !strings.Contains(in.Message, "start the CAS: cas_start: the CAS hangs while it starts: the CAS (process ") {
		t.Errorf("%+v", in)
	}
	if err := os.Remove(hangs); err != nil {
		t.Fatal(err)
	}
	if in := <-told; in.Reason != manager.ReasonTroubleOver {
		t.Errorf("%+v", in)
	}

	c, _ = fakeCAS(t)
	if err := os.WriteFile(filepath.Join(c.dir, "hangs"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := c.start(t.Context())
	if p := problem.From(err); err == nil || p.Rule != "cas_start" || p.Mend == "" {
		t.Errorf("started: %v", err)
	}
}

// TestStoppedCASOfADeadCupeld: it can't see that it has nobody any more, so it is ended.
func TestStoppedCASOfADeadCupeld(t *testing.T) {
	c, _ := fakeCAS(t)
	r, err := c.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := layout{dir: filepath.Dir(c.dir), id: "12345678"}
	if err := syscall.Kill(r.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !proc.Stopped(r.pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not stop")
		}
	}
	if !l.casEnds() {
		t.Error("it is not found")
	}
	if err := <-r.exit; err == nil {
		t.Error("it was ended, and says that it ended well")
	}
}
