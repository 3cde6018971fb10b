package daemon

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/cgroup"
)

// TestAdoptedAreAsStarted: what an earlier release left in the control group and with
// the limits of whoever started it has the daemons' after the next start.
func TestAdoptedAreAsStarted(t *testing.T) {
	o := upOptions(t)
	l := served(t, o)
	tail, err := exec.LookPath("tail")
	if err != nil {
		t.Fatal(err)
	}
	shim := exec.Command(programAs(t, tail, "containerd-shim-runc-v2"), "-f", l.path("ports.json"))
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shim.Process.Kill(); _ = shim.Wait() }()
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		t.Fatal(err)
	}
	low := unix.Rlimit{Cur: own.Cur / 2, Max: own.Max} // a hard limit isn't raised everywhere
	left := eventually(t, func() []process { return l.processes() }, 2)
	for _, p := range left {
		if err := groups.Join("/", p.pid); err != nil {
			t.Fatal(err)
		}
		if err := unix.Prlimit(p.pid, unix.RLIMIT_NOFILE, &low, nil); err != nil {
			t.Fatal(err)
		}
	}

	_, end := begin(t, o)
	for _, p := range left {
		group := readProc(t, p.pid, "cgroup")
		if !strings.Contains(group, ":memory:"+string(l.daemonGroup())+"\n") && !strings.Contains(group, "0::"+string(l.daemonGroup())+"\n") {
			t.Errorf("%s (process %d) stays in the control groups\n%s", p.name, p.pid, group)
		}
		var got unix.Rlimit
		if err := unix.Prlimit(p.pid, unix.RLIMIT_NOFILE, nil, &got); err != nil || got != own {
			t.Errorf("%s may have %+v files open, want %+v; %v", p.name, got, own, err)
		}
	}
	if err := end(nil); err != nil {
		t.Fatal(err)
	}
}

// eventually returns a list as soon as it has n entries.
func eventually(t *testing.T, list func() []process, n int) []process {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got := list()
		if len(got) == n {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v, want %d", got, n)
		}
	}
}

// TestLasting: what a SIGKILL doesn't end is named, and what to look for.
func TestLasting(t *testing.T) {
	err := refuseLasting([]process{{7, "containerd", false}, {8, "cupeld", true}})
	if p := problem.From(err); p.Actual != "not ended by SIGKILL: containerd (process 7), cupeld (process 8)" || !strings.Contains(p.Mend, "(dmesg; ps -o pid,state,wchan -p 7,8)") {
		t.Errorf("%v", err)
	}
	t.Log(err)
	if err := refuseLasting(nil); err != nil {
		t.Error(err)
	}
}
