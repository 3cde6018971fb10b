// Package peer runs the processes that benchmarks measure, and those that they
// are measured against, and reads what they use.
package peer

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"cupel.dev/cupel/internal/testing/castest"
)

// Server is a child process that listens.
type Server struct {
	cmd       *exec.Cmd
	Owners    string
	Instances string
	Identity  string
}

// Start runs cmd and waits for its line on descriptor 3, as --ready-fd 3 writes it.
func Start(cmd *exec.Cmd) (*Server, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}

	defer func() { _ = r.Close() }()

	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = os.Stderr

	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return nil, err
	}

	s := &Server{cmd: cmd}
	if err := json.NewDecoder(r).Decode(s); err != nil {
		return nil, errors.Join(fmt.Errorf("%s did not become ready: %w", cmd.Path, err), cmd.Process.Kill(), cmd.Wait())
	}

	return s, nil
}

// CPU is what the process has used: user and system time of all its threads.
func (s *Server) CPU() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}

	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))

	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}

	return time.Duration(ticks) * (time.Second / 100), nil // USER_HZ is 100 everywhere
}

// ServeBare is what a release is measured against: the same handshake, a body of
// the same size in each direction, and nothing in between.
func ServeBare(size int) error {
	key, err := castest.NewKey()
	if err != nil {
		return err
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}

	ready := os.NewFile(3, "ready")
	if err := json.NewEncoder(ready).Encode(Server{Instances: l.Addr().String()}); err != nil {
		return err
	}

	_ = ready.Close()

	reply := bytes.Repeat([]byte("x"), size)

	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(reply)
	})}

	return srv.Serve(tls.NewListener(l, &tls.Config{
		Certificates:           []tls.Certificate{key.Cert},
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"http/1.1"},
	}))
}

// Stop kills the process and waits for its end.
func (s *Server) Stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Memory is what the process has in memory, in bytes.
func (s *Server) Memory() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}

	fields := strings.Fields(string(b)) // in pages: all, resident, …
	if len(fields) < 2 {
		return 0, fmt.Errorf("read memory: %q", b)
	}

	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
