package node

import (
	"bufio"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/procfs"
	"cupel.dev/cupel/internal/trusted/wire"
)

// TestStoppedApp: an app whose processes were all stopped by a signal, for which the
// kernel accepts connections, is ill; one of which a process goes on isn't.
func TestStoppedApp(t *testing.T) {
	launcher := exec.Command("sh", "-c", "sleep 1000 & echo $!; sleep 1000 & echo $!; wait")
	said, err := launcher.StdoutPipe()
	if err == nil {
		err = launcher.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	pids := []int{launcher.Process.Pid}
	for lines := bufio.NewScanner(said); len(pids) < 3 && lines.Scan(); {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	t.Cleanup(func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = launcher.Wait()
	})
	to := func(pid int, s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); procfs.Suspended(pid) != (s == syscall.SIGSTOP); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d: %v", pid, s)
			}
		}
	}
	is := func(want bool, what string) {
		t.Helper()
		if got := allSuspended(pids); got != want {
			t.Errorf("%s: %t", what, got)
		}
	}
	is(false, "all run")
	to(pids[0], syscall.SIGSTOP)
	is(false, "the launcher alone")
	to(pids[1], syscall.SIGSTOP)
	is(false, "one of two")
	to(pids[2], syscall.SIGSTOP)
	is(true, "both")
	to(pids[0], syscall.SIGCONT)
	is(true, "both, and not the launcher")
	to(pids[1], syscall.SIGCONT)
	is(false, "one goes on")
	if allSuspended(nil) {
		t.Error("none is stopped")
	}

	// It is looked at seldom while it is well, and counts when it was found so again.
	var w suspendedWatch
	looks := 0
	stopped := func() bool { looks++; return true }
	for range suspendedEach {
		if w.after(false, stopped) || w.after(true, stopped) {
			t.Error("after one look")
		}
	}
	if looks != 1 || w.after(true, stopped) || !w.after(false, stopped) || looks != suspendedLooks {
		t.Errorf("%d looks", looks)
	}
	if w.after(true, func() bool { return false }) || w.after(true, stopped) {
		t.Error("it goes on")
	}

	// What is said of it.
	n, _ := testNode(t)
	i := n.put(&record{Spec: manager.InstanceSpec{ID: "i-1-1", Port: 80}, Made: true, StartedAt: time.Now(), Report: wire.Status{Version: wire.StatusVersion, Phase: wire.Running}})
	n.healthSeen(i, true, false)
	for range healthFailures {
		n.healthSeen(i, true, true)
	}
	list, _ := n.List(t.Context())
	if s := list[0]; s.Health != manager.HealthUnhealthy || s.Problem == nil || !strings.Contains(s.Problem.Actual, "the app's processes are stopped (SIGSTOP)") {
		t.Errorf("%+v", s)
	}
	n.healthSeen(i, true, false)
	if list, _ = n.List(t.Context()); list[0].Health != manager.HealthHealthy || list[0].Problem != nil {
		t.Errorf("again: %+v", list[0])
	}
}
