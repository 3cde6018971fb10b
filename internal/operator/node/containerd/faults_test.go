package containerd_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node"
)

// containerdPID is the number of the machine's containerd.
func containerdPID(t *testing.T, m *machine) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(m.state, "containerd", "containerd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var p struct{ PID int }
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	return p.PID
}

// TestContainerdHangs: a containerd that runs and answers nothing is started anew,
// while cupeld runs and when it begins, it is said, and instances go on.
func TestContainerdHangs(t *testing.T) {
	m := newMachine(t)
	m.patience = 500 * time.Millisecond
	l := m.live()
	defer func() { l.leave() }()
	l.start("i-hang", "serve", 80)
	l.status("i-hang", func(s manager.InstanceStatus) bool { return s.Health == manager.HealthHealthy })
	pid := pidOf(t, l, "i-hang")

	hung := containerdPID(t, m)
	if err := syscall.Kill(hung, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); containerdPID(t, m) == hung; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it hangs still")
		}
	}
	if told := m.tells(); len(told) != 1 || !strings.Contains(told[0], "has not answered for 500 ms, and is stopped (SIGSTOP, or a debugger): it is ended and started again, apps go on") {
		t.Errorf("told %q", told)
	}

	// Nobody is there, and the next process finds it hung.
	awaitContainerd(t, l)
	l.kill()
	if err := syscall.Kill(containerdPID(t, m), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	l = m.live()
	if told := m.tells(); len(told) != 2 {
		t.Errorf("told %q", told)
	}
	s := l.status("i-hang", func(s manager.InstanceStatus) bool { return s.Health == manager.HealthHealthy })
	if got := pidOf(t, l, "i-hang"); got != pid || s.State != manager.StateRunning {
		t.Errorf("%+v as process %d, was %d", s, got, pid)
	}

	// One that is killed is told too, once.
	killed := containerdPID(t, m)
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); len(m.tells()) < 3; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it isn't told")
		}
	}
	if told, want := m.tells(), fmt.Sprintf("containerd (process %d) ended: it is started again, apps go on.", killed); len(told) != 3 || !strings.Contains(told[2], want) {
		t.Errorf("told %q", told)
	}
	awaitContainerd(t, l)
}

// awaitContainerd waits until a containerd that was started again answers.
func awaitContainerd(t *testing.T, l *life) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, err := l.runtime.List(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestOrphanShim: a shim that containerd doesn't know any more, as after it was killed
// again and again, is ended with what it ran.
func TestOrphanShim(t *testing.T) {
	m := newMachine(t)
	l := m.live()
	defer func() { l.leave() }()
	l.start("i-shim", "idle", 0)
	l.status("i-shim", running)
	l.kill()
	killContainerd(t, m)
	// What the daemon knows its shims by.
	bundle := filepath.Join(m.state, "containerd", "run", "io.containerd.runtime.v2.task", "cupel-"+m.id, "i-shim")
	if err := node.UnmountBelow(bundle); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(bundle); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(m.state, "instances", "i-shim.json")); err != nil {
		t.Fatal(err)
	}
	if left := shimsOf(m); len(left) != 1 {
		t.Fatalf("shims before: %q", left)
	}
	l = m.live()
	for deadline := time.Now().Add(20 * time.Second); len(shimsOf(m)) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("left: %q", shimsOf(m))
		}
	}
	// Its id is free, to the low-level runtime too.
	l.start("i-shim", "exit", 0)
	l.status("i-shim", exited)
}

// TestEmptyRecord: after a power cut, or by a bad disk, a record may be empty. The next
// life begins, the other instances go on, and what is left of that one is removed,
// also where it runs.
func TestEmptyRecord(t *testing.T) {
	m := newMachine(t)
	l := m.live()
	defer func() { l.leave() }()
	l.start("i-good", "idle", 0)
	l.start("i-bad", "idle", 0)
	l.status("i-good", running)
	l.status("i-bad", running)
	pid := pidOf(t, l, "i-good")
	l.kill()
	if err := os.Truncate(filepath.Join(m.state, "instances", "i-bad.json"), 0); err != nil {
		t.Fatal(err)
	}

	l = m.live()
	list, err := l.node.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != "i-good" || pidOf(t, l, "i-good") != pid {
		t.Errorf("%+v, %v", list, err)
	}
	if left, _ := filepath.Glob(filepath.Join(m.state, "*", "i-bad*")); len(left) != 1 || !strings.HasSuffix(left[0], "damaged/i-bad.json") {
		t.Errorf("left: %q", left)
	}
	l.start("i-bad", "exit", 0) // as the manager does
	l.status("i-bad", exited)
}

// shimsOf returns the command lines of the machine's shims.
func shimsOf(m *machine) []string {
	var out []string
	for _, args := range processesOf(m.id) {
		if strings.Contains(args, "containerd-shim-runc-v2") {
			out = append(out, args)
		}
	}
	return out
}

// TestExitedInstanceHoldsNoAddress: what an instance had goes to others once it ended,
// and its logs stay.
func TestExitedInstanceHoldsNoAddress(t *testing.T) {
	l := newMachine(t).live()
	defer l.leave()
	l.start("i-exit", "exit", 0)
	l.status("i-exit", exited)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		held, err := l.network.Held()
		if err != nil {
			t.Fatal(err)
		}
		if len(held) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("addresses are held by %q", held)
		}
	}
	if got := l.output("i-exit", 1); len(got) == 0 {
		t.Error("its log went with its address")
	}
}
