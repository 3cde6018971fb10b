package containerd_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/containerd"
	"cupel.dev/cupel/internal/testing/need"
)

// slowContainerd makes each containerd that is started from now on take a while before
// it takes questions, as one that loads hundreds of tasks does, or has shims that hang.
func slowContainerd(t *testing.T, seconds int) {
	t.Helper()
	program, err := exec.LookPath("containerd")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nsleep %d\nexec %s \"$@\"\n", seconds, program)
	if err := os.WriteFile(filepath.Join(dir, "containerd"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// slowMachine is a machine without a node: what is tested is its containerd alone.
func slowMachine(t *testing.T) (*machine, containerd.DaemonConfig) {
	t.Helper()
	need.Root(t)
	need.Programs(t, "containerd")
	m := &machine{t: t, state: t.TempDir(), id: "510w510w"}
	cfg := containerd.DaemonConfig{
		Dir:      filepath.Join(m.state, "containerd"),
		ID:       m.id,
		Logger:   slog.New(slog.NewTextHandler(t.Output(), nil)),
		Patience: 200 * time.Millisecond,
		Tell: func(_, message string) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.told = append(m.told, message)
		},
	}
	return m, cfg
}

func open(t *testing.T, cfg containerd.DaemonConfig) *containerd.Daemon {
	t.Helper()
	d, err := containerd.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d
}

// TestContainerdIsSlow: a containerd that dies, and whose next life needs longer to
// begin than one that hangs may be silent, comes up.
func TestContainerdIsSlow(t *testing.T) {
	m, cfg := slowMachine(t)
	d := open(t, cfg)
	first := containerdPID(t, m)
	slowContainerd(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	defer func() { cancel(); <-done }()

	if err := os.Remove(d.Address()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(d.Address()); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not come up; told %q", m.tells())
		}
	}
	if told := m.tells(); len(told) != 1 || !strings.Contains(told[0], fmt.Sprintf("containerd (process %d) ended", first)) {
		t.Errorf("told %q", told)
	}
}

// TestContainerdIsSlowAtTheStart: whoever doesn't want to wait any longer for a
// containerd that still starts leaves it alone, and the next one takes it over.
func TestContainerdIsSlowAtTheStart(t *testing.T) {
	m, cfg := slowMachine(t)
	slowContainerd(t, 2)
	short := cfg
	short.StartLimit = 200 * time.Millisecond
	for range 2 {
		_, err := containerd.Open(t.Context(), short)
		if p := problem.From(err); err == nil || p.Rule != "containerd_start" || p.Mend == "" {
			t.Fatalf("opened: %v", err)
		}
	}
	pid := containerdPID(t, m)

	started := 0
	cfg.Started = func(pid int) error { started = pid; return nil }
	open(t, cfg)
	if got := containerdPID(t, m); got != pid {
		t.Errorf("process %d, want %d, which was starting", got, pid)
	}
	if started != pid {
		t.Errorf("told to be started: %d, want %d, which was taken over", started, pid)
	}
	if told := m.tells(); len(told) != 0 {
		t.Errorf("told %q", told)
	}
}
