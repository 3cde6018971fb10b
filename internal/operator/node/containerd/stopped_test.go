package containerd_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/node/logfile"
	"cupel.dev/cupel/internal/procfs"
)

// shimPID is the process of an instance's shim.
func shimPID(t *testing.T, m *machine, id ident.AttemptID) int {
	t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range procs {
		b, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := string(b)
		if strings.Contains(args, "containerd-shim-runc-v2\x00") && strings.Contains(args, m.id) && strings.Contains(args, "\x00"+string(id)+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			return pid
		}
	}
	t.Fatal("the instance has no shim")
	return 0
}

// TestStoppedHelpers: a shim or a log writer that was stopped by a signal goes on, it is
// told, and nothing is lost: the app is no process of theirs that has to end.
func TestStoppedHelpers(t *testing.T) {
	m := newMachine(t)
	m.patience = time.Second
	l := m.live()
	defer func() { l.leave() }()
	l.start("i-count", "count", 0)
	l.status("i-count", running)
	pid := pidOf(t, l, "i-count")
	writer := logfile.Process(filepath.Join(m.state, "logs", "i-count"))
	shim := shimPID(t, m, "i-count")
	for name, helper := range map[string]int{"log writer": writer, "shim": shim} {
		if err := syscall.Kill(helper, syscall.SIGSTOP); err != nil {
			t.Fatalf("%s (process %d): %v", name, helper, err)
		}
	}
	for _, stopped := range []bool{true, false} {
		for deadline := time.Now().Add(30 * time.Second); procfs.Stopped(writer) != stopped || procfs.Stopped(shim) != stopped; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("stopped: log writer %v, shim %v", procfs.Stopped(writer), procfs.Stopped(shim))
			}
		}
	}
	told := strings.Join(m.tells(), "\n")
	if !strings.Contains(told, "the shim of instance i-count (process ") || !strings.Contains(told, "was stopped by a signal: it was told to go on (SIGCONT)") {
		t.Errorf("told %q", told)
	}

	if got := pidOf(t, l, "i-count"); got != pid {
		t.Errorf("process %d, was %d", got, pid)
	}
	if err := l.node.Stop(t.Context(), "i-count", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	s := l.status("i-count", exited)
	if lines := l.lines("i-count"); s.ExitCode != 0 || lines[len(lines)-1] != "bye" {
		t.Errorf("%+v; %q", s, lines[len(lines)-1])
	}
}

// TestStoppedInstance: a launcher that was stopped by a signal is told to go on, though its
// app serves meanwhile. An app that is stopped is left as it is, until it is to end: then
// it hears of it.
func TestStoppedInstance(t *testing.T) {
	m := newMachine(t)
	l := m.live()
	defer func() { l.leave() }()
	l.start("i-app", "app", 0)
	l.status("i-app", running)
	launcher := pidOf(t, l, "i-app")
	stop := func(pid int) {
		t.Helper()
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		until(t, "it is stopped", func() bool { return procfs.Stopped(pid) })
	}
	stop(launcher)
	until(t, "the launcher goes on", func() bool { return !procfs.Stopped(launcher) })
	app := 0
	until(t, "the app runs", func() bool {
		threads, _ := filepath.Glob("/proc/" + strconv.Itoa(launcher) + "/task/*/children") // one of them made it
		for _, children := range threads {
			b, _ := os.ReadFile(children)
			if pid, _ := strconv.Atoi(strings.TrimSpace(string(b))); pid != 0 {
				app = pid
			}
		}
		return app != 0
	})
	stop(app)

	if err := l.node.Stop(t.Context(), "i-app", 20*time.Second); err != nil {
		t.Fatal(err)
	}
	s := l.status("i-app", exited)
	if lines := l.lines("i-app"); s.ExitCode != 0 || lines[len(lines)-1] != "app: bye" {
		t.Errorf("%+v; %q", s, lines)
	}
	want := []string{
		"the launcher of instance i-app (process " + strconv.Itoa(launcher) + ") was stopped by a signal: it was told to go on (SIGCONT)",
		"the app of instance i-app (process " + strconv.Itoa(app) + ") was stopped by a signal: it was told to go on (SIGCONT)",
	}
	if got := m.stops(); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
