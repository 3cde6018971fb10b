package containerd_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/operator/node/logfile"
	"cupel.dev/cupel/internal/trusted/launch"
)

func TestLifeOfAnInstance(t *testing.T) {
	m := newMachine(t)
	l := m.live()
	defer func() { l.leave() }()
	events, err := l.node.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range events { // taken and forgotten
		}
	}()
	l.start("i-serve", "serve", 80)
	s := l.status("i-serve", func(s manager.InstanceStatus) bool { return s.Health == manager.HealthHealthy })
	if s.State != manager.StateRunning || s.InstanceID != (ident.KeyHash{7}) || s.Labels["k"] != "v" || !s.IP.Is4() {
		t.Errorf("status %+v", s)
	}
	// Started twice is once.
	if err := l.node.Start(t.Context(), l.spec("i-serve", "serve")); err != nil {
		t.Error(err)
	}
	checkLimits(t, l, "i-serve")
	args := "args: /cupel-init run --user 1000 --cwd / --env PATH=/bin -- /bin/app"
	if got := l.output("i-serve", 1); got[0] != args {
		t.Errorf("output %q, want %q", got, args)
	}

	// The daemon dies and comes again: nothing is restarted.
	pid := pidOf(t, l, "i-serve")
	l.kill()
	l = m.live()
	after := l.status("i-serve", func(s manager.InstanceStatus) bool { return s.Health == manager.HealthHealthy })
	if got := pidOf(t, l, "i-serve"); got != pid || after.IP != s.IP || after.InstanceID != s.InstanceID || !after.StartedAt.Equal(s.StartedAt) {
		t.Errorf("adopted %+v as process %d, was %+v as %d", after, got, s, pid)
	}

	if err := l.node.Stop(t.Context(), "i-serve", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	s = l.status("i-serve", exited)
	if s.ExitCode != 0 || s.OOMKilled || s.ExitedAt.IsZero() {
		t.Errorf("after stop: %+v", s)
	}
	if got := l.output("i-serve", 2); got[len(got)-1] != "bye" {
		t.Errorf("last words %q", got)
	}
	if err := l.node.Start(t.Context(), l.spec("i-serve", "serve")); err == nil {
		t.Error("an exited id started again")
	}
	if err := l.node.Remove(t.Context(), "i-serve"); err != nil {
		t.Fatal(err)
	}
	if err := l.node.Remove(t.Context(), "i-serve"); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	// The id is free again.
	l.start("i-serve", "exit", 0)
	if s = l.status("i-serve", exited); s.ExitCode != 7 {
		t.Errorf("exit code %d, want 7", s.ExitCode)
	}
}

// checkLimits reads what the kernel really enforces: the limit, and no swap.
func checkLimits(t *testing.T, l *life, id ident.AttemptID) {
	t.Helper()
	v1 := "/sys/fs/cgroup/memory/cupel-" + l.id + "/" + string(id) + "/"
	v2 := "/sys/fs/cgroup/cupel-" + l.id + "/" + string(id) + "/"
	want := map[string]string{v1 + "memory.limit_in_bytes": "134217728", v1 + "memory.swappiness": "0"}
	if _, err := os.Stat(v1 + "memory.memsw.limit_in_bytes"); err == nil {
		want[v1+"memory.memsw.limit_in_bytes"] = "134217728"
	}
	if _, err := os.Stat(v2 + "memory.max"); err == nil {
		want = map[string]string{v2 + "memory.max": "134217728", v2 + "memory.swap.max": "0"}
	}
	for path, value := range want {
		if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != value {
			t.Errorf("%s: %q, %v; want %s", path, b, err, value)
		}
	}

	// Its weight is as its memory: half of what 256 MiB have, which is the kernel's
	// default. What version 2 makes of it is the runtime's choice.
	if b, err := os.ReadFile("/sys/fs/cgroup/cpu/cupel-" + l.id + "/" + string(id) + "/cpu.shares"); err == nil && strings.TrimSpace(string(b)) != "512" {
		t.Errorf("CPU shares %q, want 512", b)
	}
	if b, err := os.ReadFile(v2 + "cpu.weight"); err == nil && strings.TrimSpace(string(b)) == "100" {
		t.Errorf("CPU weight %q, the default", b)
	}
}

// TestMissedReport: the launcher said that the app runs while nobody listened.
func TestMissedReport(t *testing.T) {
	m := newMachine(t)
	l := m.live()
	defer func() { l.leave() }()
	l.start("i-missed", "serve", 80)
	l.status("i-missed", func(s manager.InstanceStatus) bool { return s.Health == manager.HealthHealthy })
	l.kill()
	path := filepath.Join(m.state, "instances", "i-missed.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rec map[string]any
	if err := json.Unmarshal(b, &rec); err != nil {
		t.Fatal(err)
	}
	delete(rec, "started_at")
	rec["report"].(map[string]any)["phase"] = "mounting"
	if b, err = json.Marshal(rec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	l = m.live()
	list, err := l.node.List(t.Context()) // at once: the port answers
	if err != nil || len(list) != 1 || list[0].State != manager.StateRunning || list[0].Health != manager.HealthHealthy ||
		list[0].InstanceID.IsZero() {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestOutOfMemory(t *testing.T) {
	l := newMachine(t).live()
	defer l.leave()
	l.start("i-oom", "oom", 0)
	s := l.status("i-oom", exited)
	if !s.OOMKilled || s.ExitCode != 137 || s.Problem == nil || s.Problem.Rule != "out_of_memory" {
		t.Errorf("status %+v, problem %v", s, s.Problem)
	}
}

// TestDaemonsDie kills containerd and our daemon while an instance writes: it
// goes on, and its log has no hole.
func TestDaemonsDie(t *testing.T) {
	m := newMachine(t)
	m.limits = logfile.Limits{Size: 8 << 10, Keep: 1000}
	l := m.live()
	defer func() { l.leave() }()
	l.start("i-count", "count", 0)
	l.status("i-count", running)
	pid := pidOf(t, l, "i-count")
	killContainerd(t, m)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if launched, err := l.runtime.Inspect(t.Context(), "i-count"); err == nil && launched.PID == pid {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("containerd did not come again")
		}
	}
	l.kill()
	killContainerd(t, m) // both are gone
	time.Sleep(200 * time.Millisecond)
	l = m.live()
	l.status("i-count", running)
	if got := pidOf(t, l, "i-count"); got != pid {
		t.Fatalf("process %d, was %d", got, pid)
	}
	time.Sleep(200 * time.Millisecond)
	if err := l.node.Stop(t.Context(), "i-count", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	r, err := l.node.Logs(t.Context(), "i-count", manager.LogOptions{Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	lines := readLines(r) // Follow ends by itself: the instance has exited
	want := 0
	for _, line := range lines {
		var n int
		if _, err := fmt.Sscanf(line, "line %d", &n); err != nil {
			continue
		}
		if n != want {
			t.Fatalf("line %d follows line %d", n, want-1)
		}
		want++
	}
	if files, _ := filepath.Glob(filepath.Join(m.state, "logs", "i-count", "*.jsonl")); want < 100 || len(files) < 2 {
		t.Errorf("%d lines in %d files", want, len(files))
	}
}

func killContainerd(t *testing.T, m *machine) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(m.state, "containerd", "containerd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var p struct{ PID int }
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestShimDies: an instance whose shim is gone has ended, and says why.
func TestShimDies(t *testing.T) {
	l := newMachine(t).live()
	defer l.leave()
	l.start("i-shim", "idle", 0)
	l.status("i-shim", running)
	b, err := os.ReadFile("/proc/" + itoa(pidOf(t, l, "i-shim")) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	var shim int
	if _, err := fmt.Sscan(strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))[1], &shim); err != nil || shim <= 1 {
		t.Fatalf("shim %d: %v", shim, err)
	}
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if s := l.status("i-shim", exited); s.Problem == nil || s.ExitCode == 0 {
		t.Errorf("%+v, %v", s, s.Problem)
	}
}

// TestNothingToAdopt: instances whose processes and mounts are gone, as after a
// reboot, are known by their records.
func TestNothingToAdopt(t *testing.T) {
	m := newMachine(t)
	l := m.live()
	l.start("i-swept", "idle", 0)
	l.status("i-swept", running)
	pid := pidOf(t, l, "i-swept")
	l.kill()
	if err := l.daemon.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	parent := cgroup.Path("/cupel-" + m.id)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := errors.Join(groups.Kill(parent), groups.Remove(parent))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if err := node.UnmountBelow(m.state); err != nil {
		t.Fatal(err)
	}
	if stat, err := os.ReadFile("/proc/" + itoa(pid) + "/stat"); err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("the instance's process is there: %s", stat)
	}
	// The next life finds the record and has nothing to adopt.
	l = m.live()
	defer l.leave()
	if s := l.status("i-swept", exited); s.Problem == nil || s.Problem.Rule != "node_restarted" {
		t.Errorf("%+v, %v", s, s.Problem)
	}
}

func TestEvidence(t *testing.T) {
	l := newMachine(t).live()
	defer l.leave()
	l.start("i-quote", "quote", 0)
	l.status("i-quote", running)
	img, err := launch.ParseImageConfig(l.config)
	if err != nil {
		t.Fatal(err)
	}
	want, err := launch.Expected(launch.Newest, img, l.node.LauncherDigest())
	if err != nil {
		t.Fatal(err)
	}
	lines := l.output("i-quote", 3)
	quote, err := hex.DecodeString(strings.TrimPrefix(lines[1], "launcher: quote "))
	if err != nil {
		t.Fatalf("the launcher got %q", lines[1])
	}
	// The quote's report body begins at 48; offsets as SGX defines them.
	if got := ident.Measurement(quote[48+64 : 48+96]); got != want {
		t.Errorf("measurement %v, want %v", got, want)
	}
	if quote[48+192] != 9 {
		t.Error("the launch binding is not in the evidence")
	}
	if quote[48+320] != 42 {
		t.Error("the report data is not in the evidence")
	}
	if !strings.Contains(lines[2], "las_peer") {
		t.Errorf("another process of the instance got %q", lines[2])
	}
	// A process outside any instance: root on the host, on the very socket.
	if out := askFromHost(t, filepath.Join(l.state, "run", "i-quote")); !strings.Contains(out, "las_peer") {
		t.Errorf("a process of the machine got %q", out)
	}
	// Another instance's launcher, even if it got hold of the socket.
	l.start("i-other", "serve", 0)
	l.status("i-other", running)
	if out := askAs(t, pidOf(t, l, "i-other"), l.launcher, filepath.Join(l.state, "run", "i-quote")); !strings.Contains(out, "las_peer") {
		t.Errorf("a process of another instance got %q", out)
	}
}

// TestAttestationComesAgain: after a restart the service listens in the same
// directory, which the instance still has mounted.
func TestAttestationComesAgain(t *testing.T) {
	m := newMachine(t)
	l := m.live()
	defer func() { l.leave() }()
	l.start("i-again", "quotes", 0)
	l.output("i-again", 3)
	l.kill()
	before := len(l.lines("i-again"))
	time.Sleep(200 * time.Millisecond) // it asks, and nobody answers
	l = m.live()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if after := l.lines("i-again")[before:]; len(after) > 0 && after[len(after)-1] == "again: quote" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("output %q", l.lines("i-again"))
		}
	}
}

func TestNothingHalfMade(t *testing.T) {
	m := newMachine(t)
	l := m.live()
	defer func() { l.leave() }()
	if err := l.node.Start(t.Context(), l.spec("i-none", "serve")); err == nil {
		t.Fatal("started without its image")
	}
	if _, err := l.node.EnsureImage(t.Context(), l.image); err != nil {
		t.Fatal(err)
	}
	// Cancelled at every moment.
	for i := range 12 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*8*time.Millisecond)
		err := l.node.Start(ctx, l.spec("i-half", "serve"))
		cancel()
		if err == nil {
			if err := l.node.Remove(t.Context(), "i-half"); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "killed") {
			t.Logf("cancelled after %d ms: %v", i*8, err)
		}
	}
	if list, err := l.node.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
	// What a daemon that died in the middle leaves is removed by the next.
	l.start("i-dead", "serve", 0)
	l.kill()
	record := filepath.Join(m.state, "instances", "i-dead.json")
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record, bytes.Replace(b, []byte(`"made": true`), []byte(`"made": false`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	l = m.live()
	if list, err := l.node.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("adopted what was half-made: %v, %v", list, err)
	}
	// And what has no record at all.
	l.start("i-orphan", "serve", 0)
	l.status("i-orphan", running)
	l.kill()
	if err := os.Remove(filepath.Join(m.state, "instances", "i-orphan.json")); err != nil {
		t.Fatal(err)
	}
	l = m.live()
	if left, _ := filepath.Glob(filepath.Join(m.state, "*", "i-orphan*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestLaunchProfileHolds(t *testing.T) {
	l := newMachine(t).live()
	defer l.leave()
	l.start("i-deny", "deny", 0)
	l.status("i-deny", running)
	want := map[string]string{
		"unshare user namespace": "operation not permitted", "ptrace": "operation not permitted", "bpf": "operation not permitted",
		"keyctl": "operation not permitted", "init_module": "operation not permitted", "clone3": "function not implemented",
		"mknod": "operation not permitted", "write to root": "open /x: read-only file system",
		"write to the sockets":    "open /run/cupel/x: read-only file system",
		"unshare mount namespace": "<nil>", "mount tmpfs": "<nil>",
	}
	lines := strings.Join(l.output("i-deny", 1+len(want)), "\n")
	for what, result := range want {
		if !strings.Contains(lines, "deny: "+what+" "+result) {
			t.Errorf("%s: want %q in\n%s", what, result, lines)
		}
	}
}

func TestVolumesThroughTheNode(t *testing.T) {
	l := newMachine(t).live()
	defer l.leave()
	l.start("i-volume", "volume", 0)
	l.status("i-volume", running)
	got := strings.Join(l.output("i-volume", 4)[1:], "; ")
	if want := "get 1 missing; get 2 generation 2; get 3 generation 3"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestLogWriterDies: an instance whose log writer is killed goes on, without an
// error when it writes, and gets another writer: from this node, or from the
// next one if there is none just then.
func TestLogWriterDies(t *testing.T) {
	m := newMachine(t)
	l := m.live()
	defer func() { l.leave() }()
	l.start("i-count", "count", 0)
	l.status("i-count", running)
	pid := pidOf(t, l, "i-count")
	counted := func() []int {
		var numbers []int
		for _, line := range l.lines("i-count") {
			var n int
			if _, err := fmt.Sscanf(line, "line %d", &n); err == nil {
				numbers = append(numbers, n)
			}
		}
		return numbers
	}
	more := func() {
		t.Helper()
		before := len(counted())
		for deadline := time.Now().Add(30 * time.Second); len(counted()) < before+50; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no more output after %d lines", before)
			}
		}
	}
	more()
	killLogWriter(t, m, "i-count")
	more()
	l.kill()
	killLogWriter(t, m, "i-count")
	time.Sleep(200 * time.Millisecond)
	l = m.live()
	more()
	if got := pidOf(t, l, "i-count"); got != pid {
		t.Errorf("process %d, was %d", got, pid)
	}
	// Each time at most what the dead writer held in its hands is lost: what it
	// reads at once, and the line which that ends in.
	const held = 16<<10 + len("line 1000000\n")
	gaps, numbers := 0, counted()
	for i := 1; i < len(numbers); i++ {
		lost := 0
		for n := numbers[i-1] + 1; n < numbers[i]; n++ {
			lost += len(fmt.Sprintln("line", n))
		}
		switch {
		case numbers[i] <= numbers[i-1] || lost > held:
			t.Errorf("line %d follows line %d", numbers[i], numbers[i-1])
		case lost > 0:
			gaps++
		}
	}
	if gaps > 2 {
		t.Errorf("%d gaps after two deaths", gaps)
	}
	if err := l.node.Stop(t.Context(), "i-count", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	l.status("i-count", exited)
	r, err := l.node.Logs(t.Context(), "i-count", manager.LogOptions{Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if lines := readLines(r); !slices.Contains(lines, "bye") {
		t.Errorf("the last words are lost: %q", lines[len(lines)-1])
	}
}

// killLogWriter kills the process that writes an instance's log.
func killLogWriter(t *testing.T, m *machine, id ident.AttemptID) {
	t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range procs {
		b, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if !bytes.Contains(b, []byte("\x00"+logfile.Verb+"\x00")) || !bytes.Contains(b, []byte(filepath.Join(m.state, "logs", string(id)))) {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(filepath.Base(dir), &pid); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("the instance has no log writer")
}
