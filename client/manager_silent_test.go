package client

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/minrate"
)

// TestLateStream: what is followed may say nothing for any time, under a manager that
// sends no header before the first line too.
func TestLateStream(t *testing.T) {
	first := make(chan struct{})
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-first
		_, _ = w.Write([]byte(`{"reason":"at last"}` + "\n"))
	}))
	defer s.Close()
	m := NewManager(ident.Address(strings.TrimPrefix(s.URL, "https://")), ManagerOptions{PID: os.Getpid(), CertSHA256: ident.Sum(s.Certificate().Raw)})
	defer m.Close()
	for _, c := range []*http.Client{m.http, m.quick} {
		c.Transport.(*minrate.Transport).ResponseHeaderTimeout = time.Nanosecond //nolint:forcetypeassert // New made it
	}
	if _, err := m.Apps(t.Context()); err == nil {
		t.Fatal("a question has no limit")
	}
	close(first)
	got := ""
	if err := m.Events(t.Context(), 0, "", true, func(e manager.Event) error { got = e.Reason; return nil }); err != nil || got != "at last" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestHiddenManager: where /proc hides what others run, a cupeld that is silent is not said
// to be gone: who starts another one would wait for it in vain.
func TestHiddenManager(t *testing.T) {
	if pid, err := strconv.Atoi(os.Getenv("CUPEL_TEST_HIDDEN")); err == nil { // in the mount namespace
		m := NewManager("127.0.0.1:1", ManagerOptions{PID: pid})
		defer m.Close()
		fmt.Println(m.silent(os.ErrDeadlineExceeded), m.silent(syscall.ECONNREFUSED))
		return
	}
	need.Root(t)
	need.Programs(t, "unshare", "setpriv", "mount", "sleep")
	cupeld := exec.Command("sleep", "1000")
	if err := cupeld.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cupeld.Process.Kill(); _ = cupeld.Wait() }()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	test := filepath.Join(dir, "test")
	if out, err := exec.Command("cp", self, test).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("unshare", "--mount", "sh", "-c",
		`mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=65534 --regid=65534 --clear-groups "$0" -test.run='^TestHiddenManager$'`, test)
	c.Dir, c.Env = "/", append(os.Environ(), fmt.Sprintf("CUPEL_TEST_HIDDEN=%d", cupeld.Process.Pid))
	out, err := c.CombinedOutput()
	if err != nil || strings.Count(string(out), "start it: cupel up") != 1 ||
		!strings.Contains(string(out), fmt.Sprintf("process %d, which cupeld was, is there, and /proc hides from you what it is (hidepid)", cupeld.Process.Pid)) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestSilentManager: a manager that takes a question and never answers is no manager
// that isn't there.
func TestSilentManager(t *testing.T) {
	end := make(chan struct{})
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-end }))
	defer s.Close()
	defer close(end)
	need.Root(t) // as cupeld is
	cupeld := exec.Command("sleep", "1000")
	cupeld.Args[0] = "/opt/cupel/cupeld"
	other := exec.Command("sleep", "1000")
	for _, c := range []*exec.Cmd{cupeld, other} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	}
	if err := other.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	pid := cupeld.Process.Pid
	for _, c := range []struct {
		name string
		opts ManagerOptions
		mend string
	}{
		{"of this machine", ManagerOptions{PID: pid}, fmt.Sprintf("cupeld (process %d) runs: try again; if it stays silent, as root: kill -9 %d, then cupel up: apps go on", pid, pid)},
		{"whose number is another program's", ManagerOptions{PID: other.Process.Pid}, "start it: cupel up"},
		{"that ended", ManagerOptions{PID: 1 << 22}, "start it: cupel up"},
		{"of another machine", ManagerOptions{Remote: true}, "check the address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opts.CertSHA256 = ident.Sum(s.Certificate().Raw)
			m := NewManager(ident.Address(strings.TrimPrefix(s.URL, "https://")), c.opts)
			defer m.Close()
			transport, ok := m.quick.Transport.(*minrate.Transport)
			if !ok || transport.ResponseHeaderTimeout != readTimeout {
				t.Fatal("a question has no limit")
			}
			transport.ResponseHeaderTimeout = 50 * time.Millisecond
			_, err := m.Apps(t.Context())
			if err == nil || !strings.Contains(err.Error(), "doesn't answer") || !strings.Contains(err.Error(), c.mend) {
				t.Errorf("%v", err)
			}
		})
	}
}
