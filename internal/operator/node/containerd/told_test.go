package containerd

import (
	"context"
	"io"
	"log/slog"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// One end of containerd is told once, also while it can't be started again (its package is
// being replaced, its database is empty).
func TestEndIsToldOnce(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir()) // no containerd
	var mu sync.Mutex
	var told []string
	d := &Daemon{pid: gone.Process.Pid, cfg: DaemonConfig{Dir: t.TempDir(), ID: "0badc0de", Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Patience: time.Minute, Tell: func(reason, message string) { mu.Lock(); told = append(told, reason+": "+message); mu.Unlock() }}}
	ctx, end := context.WithTimeout(t.Context(), 3*time.Second)
	defer end()
	_ = d.Run(ctx)
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 1 {
		t.Errorf("one end is told %d times in 3 s: %q", len(told), told)
	}
}
