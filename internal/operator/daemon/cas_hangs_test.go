package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/watchdog"
	"cupel.dev/cupel/internal/procfs"
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
	for deadline := time.Now().Add(30 * time.Second); c.processID() == than; time.Sleep(10 * time.Millisecond) {
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
			if _, err := procfs.Of(first); err == nil {
				t.Error("it is still there")
			}
		})
	}
}

// TestCASEnds: one that ended by itself, or was killed, is started again, and it is told
// once.
func TestCASEnds(t *testing.T) {
	c, _ := fakeCAS(t)
	first, told := supervise(t, c)
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.awaitOther(t, first)
	if in := <-told; in.Reason != "cas_ended" || !in.Warning || !strings.Contains(in.Message, "the CAS ended (signal: killed): it is started again") {
		t.Errorf("%+v", in)
	}
	if len(told) > 0 {
		t.Errorf("and then %+v", <-told)
	}
}

// TestCASClosesConnections: one that has no place for the watchdog closes its connection,
// early or late, which no process does that hangs.
func TestCASClosesConnections(t *testing.T) {
	for name, takes := range map[string]func(net.Conn){
		"at once":               func(net.Conn) {},
		"with something unread": func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) },
		"after all was read":    func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<16)) },
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		go func() {
			for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
				takes(c)
				_ = c.Close()
			}
		}()
		r := &running{pid: os.Getpid(), ready: casReady{Owners: ln.Addr().String()}}
		if err := r.answers(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCASTakesNoConnection: what the kernel does for a process is no sign of its life,
// also where so many wait that it does nothing for another.
func TestCASTakesNoConnection(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	idle := exec.Command("sleep", "1000")
	if err := idle.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = idle.Process.Kill(); _ = idle.Wait() }()
	c := &casProcess{patience: time.Second}
	r := &running{pid: idle.Process.Pid, ready: casReady{Owners: address}}
	hangs := func(what string) {
		t.Helper()
		err := c.watched(r, r.answers).Look(t.Context())
		if _, hung := errors.AsType[watchdog.Hung](err); !hung {
			t.Errorf("%s: %v", what, err)
		}
	}
	hangs("a question waits")

	d := net.Dialer{Timeout: 300 * time.Millisecond}
	for range 10 {
		conn, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			hangs("no question comes through")
			return
		}
		defer func() { _ = conn.Close() }()
	}
	t.Error("the kernel takes any number")
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
	if in := <-told; in.Reason != "cas_ended" {
		t.Errorf("%+v", in)
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
	l := layout{dir: filepath.Dir(c.dir), id: "12345678"}
	if err := os.Rename(c.dir, l.path("cas")); err != nil { // whose owner is the CAS's user
		t.Fatal(err)
	}
	c.dir = l.path("cas")
	r, err := c.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(r.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !procfs.Stopped(r.pid); time.Sleep(time.Millisecond) {
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

// TestCASTells: what a CAS says of why it doesn't serve is told, also of one that takes
// its time to end.
func TestCASTells(t *testing.T) {
	for line, want := range map[string]string{
		`{"problem":{"kind":"invalid","rule":"sealing_key_form","actual":"the key is damaged","mend":"restore it"}}`: "sealing_key_form: the CAS does not come up: the key is damaged",
		`{"problem":{"kind":"internal","rule":"internal","actual":"it is lost"}}`:                                    "cas_start: the CAS does not come up: internal: it is lost",
		"panic": "cas_start: the CAS does not come up: it said nothing sensible: ",
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			err := new(casProcess).await(t.Context(), &running{pid: os.Getpid(), exit: make(chan error, 1)}, r)
			if p := problem.From(err); !strings.HasPrefix(p.Error(), want) || strings.Contains(p.Error(), "%!") || p.Mend == "" {
				t.Errorf("%s: %v", line, err)
			}
		})
		if err := errors.Join(r.Close(), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
