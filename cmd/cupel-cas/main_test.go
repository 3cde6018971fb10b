package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/httpproblem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// fd hands a file's descriptor over, as a parent process does: the CAS closes it.
func fd(t *testing.T, f *os.File) int {
	t.Helper()
	n, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return n
}

// running is a CAS in this process.
type running struct {
	ready ready
	stop  context.CancelFunc
	code  chan int
	log   *bytes.Buffer // to be read after code
}

// launch runs the command until it says that it serves.
func launch(t *testing.T, state string, args ...string) *running {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	c := &running{stop: cancel, code: make(chan int, 1), log: &bytes.Buffer{}}
	args = append([]string{"cupel-cas", "--state", state, "--owners", "127.0.0.1:0", "--instances", "127.0.0.1:0",
		"--ready-fd", itoa(fd(t, w))}, args...)
	go func() { c.code <- run(ctx, args, c.log) }()
	t.Cleanup(cancel)
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil {
		t.Fatalf("not ready: exit %d: %s", <-c.code, c.log)
	}
	if err := json.Unmarshal(line, &c.ready); err != nil {
		t.Fatal(err)
	}
	return c
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) } // numbers always marshal

func (c *running) end(t *testing.T) {
	t.Helper()
	c.stop()
	select {
	case code := <-c.code:
		if code != 0 {
			t.Errorf("exit %d: %s", code, c.log)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
}

// TestRestart: the identity stays, a stop is clean, and nobody else gets in.
func TestRestart(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	first := launch(t, state)
	var out bytes.Buffer
	if code := run(t.Context(), []string{"cupel-cas", "--state", state}, &out); code != problem.Conflict.ExitCode() || !strings.Contains(out.String(), "state_in_use") {
		t.Errorf("a second CAS on the same state: exit %d: %s", code, &out)
	}
	first.end(t)
	second := launch(t, state)
	defer second.end(t)
	if first.ready.Identity != second.ready.Identity || len(first.ready.Identity) != 64 {
		t.Errorf("identity %q, then %q", first.ready.Identity, second.ready.Identity)
	}
	for _, name := range []string{"cas.key", "lock"} {
		if info, err := os.Stat(filepath.Join(state, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// TestRefusals: each bad start has its message and exit code, and changes nothing.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, state string)
		args    []string
		kind    problem.Kind
		rule    string
	}{
		"no flags":     {nil, []string{"--state", ""}, problem.Invalid, "flags"},
		"unknown flag": {nil, []string{"--nope"}, problem.Invalid, "flags"},
		"argument":     {nil, []string{"serve"}, problem.Invalid, "flags"},
		"key lost": {func(t *testing.T, state string) {
			remove(t, filepath.Join(state, "cas.key"))
		}, nil, problem.Invalid, "sealing_key_missing"},
		"key of another CAS": {func(t *testing.T, state string) {
			other := filepath.Join(t.TempDir(), "other")
			launch(t, other).end(t)
			b, err := os.ReadFile(filepath.Join(other, "cas.key"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(state, "cas.key"), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, problem.Invalid, "sealing_key"},
		"key for all to read": {func(t *testing.T, state string) {
			if err := os.Chmod(filepath.Join(state, "cas.key"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, nil, problem.Invalid, "sealing_key_permission"},
		"key is a folder": {func(t *testing.T, state string) {
			remove(t, filepath.Join(state, "cas.key"))
			if err := os.Mkdir(filepath.Join(state, "cas.key"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, nil, problem.Invalid, "sealing_key_form"},
		"root missing": {nil, []string{"--simulation-root", "/nonexistent"}, problem.Invalid, "simulation_root"},
		"root no PEM":  {nil, []string{"--simulation-root", "main.go"}, problem.Invalid, "simulation_root"},
		"port taken":   {nil, []string{"--owners", "256.0.0.1:1"}, problem.Unavailable, "port_taken"},
	} {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "state")
			launch(t, state).end(t)
			if c.prepare != nil {
				c.prepare(t, state)
			}
			var out bytes.Buffer
			args := append([]string{"cupel-cas", "--state", state, "--owners", "127.0.0.1:0", "--instances", "127.0.0.1:0"}, c.args...)
			if code := run(t.Context(), args, &out); code != c.kind.ExitCode() || !strings.Contains(out.String(), c.rule+": ") {
				t.Errorf("exit %d, want %d with rule %s: %s", code, c.kind.ExitCode(), c.rule, &out)
			}
			t.Log(out.String())
			if c.rule == "sealing_key_missing" {
				if _, err := os.Stat(filepath.Join(state, "cas.key")); !errors.Is(err, os.ErrNotExist) {
					t.Error("a new key lies beside the old state")
				}
			}
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// TestEvidence: the CAS asks over the inherited socket, and ends with it.
func TestEvidence(t *testing.T) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours := os.NewFile(uintptr(pair[0]), "las")
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
	e, err := openEvidence(pair[1])
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- e.run(t.Context()) }()
	las := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q wire.QuoteRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.URL.Path != wire.PathQuote {
			httpproblem.Write(w, "", problem.New(problem.Invalid, "quote_request", "%w", err))
			return
		}
		if q.ReportData[0] == 0xff {
			httpproblem.Write(w, "", problem.New(problem.Denied, "no_quote", "not for you"))
			return
		}
		_ = json.NewEncoder(w).Encode(evidence.Evidence{Type: evidence.SGX, Quote: q.ReportData[:1]})
	})}
	go func() { _ = las.Serve(&oneConn{conn: conn, done: t.Context()}) }()
	for i := range byte(3) {
		ev, err := e.quote(t.Context(), evidence.Data64{i})
		if err != nil || ev.Quote[0] != i {
			t.Fatalf("%v, %v", ev, err)
		}
	}
	if _, err := e.quote(t.Context(), evidence.Data64{0xff}); problem.From(err).Rule != "no_quote" {
		t.Errorf("%v", err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, errPeerGone) {
		t.Errorf("%v", err)
	}
	if _, err := e.quote(t.Context(), evidence.Data64{}); problem.KindOf(err) != problem.Unavailable {
		t.Errorf("%v", err)
	}
}

// oneConn is a listener of one connection.
type oneConn struct {
	conn net.Conn
	done context.Context //nolint:containedctx // ends Accept
	used bool
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.used {
		<-l.done.Done()
		return nil, net.ErrClosed
	}
	l.used = true
	return l.conn, nil
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// TestPeerGone: when the parent's end of the evidence socket closes, the CAS ends.
func TestPeerGone(t *testing.T) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := launch(t, filepath.Join(t.TempDir(), "state"), "--evidence-fd", itoa(pair[1]))
	if err := syscall.Close(pair[0]); err != nil {
		t.Fatal(err)
	}
	select {
	case code := <-c.code:
		if code != 0 || !strings.Contains(c.log.String(), "ending") {
			t.Errorf("exit %d: %s", code, c.log)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
}

// TestStarterLearnsWhy: whoever starts the CAS and waits for it is told in one line why
// it does not come up, by the rule and with the mend.
func TestStarterLearnsWhy(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(state string) error
		rule    string
	}{
		"no state":       {func(state string) error { return os.WriteFile(state, nil, 0o600) }, "state_access"},
		"a damaged key":  {func(state string) error { return write(state, "cas.key", "x", 0o600) }, "sealing_key_form"},
		"an empty key":   {func(state string) error { return write(state, "cas.key", "", 0o600) }, "sealing_key_form"},
		"a lost key":     {func(state string) error { return write(state, "cas.db", "x", 0o600) }, "sealing_key_missing"},
		"a folder: lock": {func(state string) error { return os.MkdirAll(filepath.Join(state, "lock"), 0o700) }, "state_access"},
	} {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "state")
			if err := c.prepare(state); err != nil {
				t.Fatal(err)
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close() }()
			var log bytes.Buffer
			code := run(t.Context(), []string{"cupel-cas", "--state", state, "--owners", "127.0.0.1:0", "--instances", "127.0.0.1:0", "--ready-fd", itoa(fd(t, w))}, &log)
			var line ready
			if err := json.NewDecoder(r).Decode(&line); err != nil || line.Problem == nil {
				t.Fatalf("told %+v, %v", line, err)
			}
			if p := line.Problem; string(p.Rule) != c.rule || p.Mend == "" || p.Kind.ExitCode() != code || line.Owners != "" {
				t.Errorf("exit %d, told %v", code, p)
			}
		})
	}
}

func write(dir, name, content string, mode os.FileMode) error {
	return errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), []byte(content), mode))
}
