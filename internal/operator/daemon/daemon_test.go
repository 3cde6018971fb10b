package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/upflags"
)

// TestMain lets this binary play a CAS, and be cupeld, by the name that it was
// started under.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case "cupel-cas":
		os.Exit(playCAS(os.Args[1:]))
	case "cupeld":
		os.Exit(Main(context.Background(), os.Args[1:], Caller{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Getenv}))
	}
	os.Exit(m.Run())
}

// playCAS does what cupeld sees of a CAS: it serves, says so, and ends with the
// evidence socket or SIGTERM. A file "hangs" in its folder makes it do nothing once it
// has begun, and one "deaf" once it serves.
func playCAS(args []string) int {
	get := func(flag string) string {
		if i := slices.Index(args, flag); i >= 0 {
			return args[i+1]
		}
		return ""
	}
	if _, err := os.Stat(filepath.Join(get("--state"), "broken")); err == nil {
		fmt.Fprintln(os.Stderr, "cupel-cas: key_missing: no key")
		return 2
	}
	has := func(file string) bool {
		_, err := os.Stat(filepath.Join(get("--state"), file))
		return err == nil
	}
	if has("hangs") {
		_, _ = io.Copy(io.Discard, os.NewFile(3, "evidence"))
		return 0
	}
	_ = os.WriteFile(filepath.Join(get("--state"), "cas.db"), []byte("rows"), 0o600) // as every CAS makes one
	var addrs []string
	for _, flag := range []string{"--owners", "--instances"} {
		ln, err := net.Listen("tcp", get(flag))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		addrs = append(addrs, ln.Addr().String())
		if !has("deaf") {
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			s.Listener = ln
			s.StartTLS()
		}
	}
	ready := os.NewFile(4, "ready")
	_ = json.NewEncoder(ready).Encode(casReady{Owners: addrs[0], Instances: addrs[1], Identity: ident.KeyHash{1, byte(os.Getuid())}})
	_ = ready.Close()
	_, _ = io.Copy(io.Discard, os.NewFile(3, "evidence"))
	return 0
}

// folder returns a state folder that every user can reach.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "cupel-daemon-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "state")
}

type fakeAttester struct{ measured chan ident.Measurement }

func (f fakeAttester) ServeConn(ctx context.Context, conn net.Conn, m ident.Measurement) error {
	f.measured <- m
	<-ctx.Done()
	return conn.Close()
}

func fakeCAS(t *testing.T) (*casProcess, fakeAttester) {
	t.Helper()
	need.Root(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t)
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 61234, 61234)); err != nil {
		t.Fatal(err)
	}
	a := fakeAttester{make(chan ident.Measurement, 10)}
	return &casProcess{
		binary: self, dir: dir, uid: 61234, logs: io.Discard, attester: a, log: slog.New(slog.DiscardHandler),
		owners: "127.0.0.1:0", instances: "127.0.0.1:0",
		patience: time.Second, tell: func(manager.Incident) {}, troubles: &manager.Troubles{Tell: func(manager.Incident) {}},
	}, a
}

func TestCASIsMeasuredAndStartedAgain(t *testing.T) {
	c, attester := fakeCAS(t)
	r, err := c.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.ready.Identity != (ident.KeyHash{1, byte(61234 & 0xff)}) {
		t.Errorf("it runs as another user: %v", r.ready.Identity)
	}
	b, err := os.ReadFile(c.binary)
	if err != nil {
		t.Fatal(err)
	}
	if m := <-attester.measured; m != sha256.Sum256(b) {
		t.Errorf("measured as %s", m)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.run(ctx, r) }()
	first := c.processID()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-attester.measured // the next one
	if c.processID() == first {
		t.Errorf("the same process")
	}
	if conn, err := awaitDial(r.ready.Owners); err != nil {
		t.Errorf("not at its old address: %v", err)
	} else {
		_ = conn.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
	if err := syscall.Kill(c.processID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("it still runs: %v", err)
	}
}

func awaitDial(addr string) (conn net.Conn, err error) {
	for range 200 {
		if conn, err = net.Dial("tcp", addr); err == nil {
			return conn, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, err
}

func TestCASThatDoesNotStartSaysWhy(t *testing.T) {
	c, _ := fakeCAS(t)
	if err := os.WriteFile(filepath.Join(c.dir, "broken"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := c.start(t.Context())
	if p := problem.From(err); err == nil || p.Rule != "cas_start" || !strings.Contains(p.Actual, "key_missing") {
		t.Errorf("start: %v", err)
	}
	c.binary = "/nonexistent/cupel-cas"
	if _, err := c.start(t.Context()); err == nil || problem.From(err).Rule != "cas_missing" {
		t.Errorf("no binary: %v", err)
	}
}

func TestUnreachableFolderIsRefused(t *testing.T) {
	dir := folder(t)
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.checkFolder(); err != nil {
		t.Errorf("reachable: %v", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err = l.checkFolder()
	if p := problem.From(err); err == nil || p.Rule != "state_unreachable" || !strings.Contains(p.Mend, "chmod o+x "+dir) {
		t.Errorf("unreachable: %v", err)
	}
	if l, err = newLayout(filepath.Join(dir, "not", "made")); err != nil {
		t.Fatal(err)
	}
	if p := problem.From(l.reachable()); p == nil || p.Rule != "state_unreachable" {
		t.Errorf("a folder that isn't there yet: %v", p)
	}
}

func TestLayout(t *testing.T) {
	a, err := newLayout("/var/tmp/cupel-a")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := newLayout("/var/tmp/cupel-a/../cupel-b")
	if a.id == b.id || len(a.id) != 8 || len(a.bridge()) > 15 {
		t.Errorf("%+v, %+v", a, b)
	}
}

func TestPortsStayTheSame(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ports.json")
	p := loadPorts(file)
	ln, err := p.listen("manager", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if _, err := p.listen("registry", addr); problem.From(err).Rule != "port_taken" {
		t.Errorf("taken: %v", err)
	}
	if err := errors.Join(p.save(), ln.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := loadPorts(file).listen("manager", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if again.Addr().String() != addr {
		t.Errorf("now at %s, was at %s", again.Addr(), addr)
	}
	_ = again.Close()

	// It stays ours while nobody listens, as when a part is started again.
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := loadPorts(file).free()(uint16(port)); err == nil || !strings.Contains(err.Error(), "own (manager)") {
		t.Errorf("an app may have the manager's port: %v", err)
	}
	if err := loadPorts(filepath.Join(t.TempDir(), "none")).free()(uint16(port)); err != nil {
		t.Errorf("somebody else may not: %v", err)
	}
}

// upOptions is a whole machine but for the real CAS.
func upOptions(t *testing.T) Options {
	t.Helper()
	need.Root(t)
	for _, tool := range tools {
		need.Programs(t, tool.program)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Installation: upflags.Installation{ManagerListen: "127.0.0.1:0", RegistryListen: "127.0.0.1:0", CASOwners: "127.0.0.1:0", CASInstances: "127.0.0.1:0", FirstPort: 8082},
		State:        folder(t), CAS: self, Launcher: self,
	}
	t.Cleanup(func() {
		if _, err := Cleanup(context.WithoutCancel(t.Context()), o, slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("Cleanup: %v", err)
		}
		if _, err := os.Stat(o.State); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder is left")
		}
		nothingLeft(t, o)
	})
	return o
}

// served is the state folder of a cupeld that served and is gone; its containerd is left,
// as by kill -9.
func served(t *testing.T, o Options) layout {
	t.Helper()
	_, end := begin(t, o)
	if err := end(nil); err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// begin runs Up until it is ready and returns how to end it.
func begin(t *testing.T, o Options) (managerapi.Endpoint, func(cause error) error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.Context()))
	ready := make(chan managerapi.Endpoint, 1)
	done := make(chan error, 1)
	go func() {
		done <- Up(ctx, o, slog.New(slog.DiscardHandler), func(s Serving) error {
			ready <- s.Endpoint
			return nil
		})
	}()
	select {
	case e := <-ready:
		return e, func(cause error) error { cancel(cause); return <-done }
	case err := <-done:
		cancel(nil)
		t.Fatalf("Up: %v", err)
	}
	panic("unreachable")
}

// stopAll is Down, for who needs no word about it.
func stopAll(ctx context.Context, o Options, log *slog.Logger) error {
	_, err := Down(ctx, o, log)
	return err
}

func nothingLeft(t *testing.T, o Options) {
	t.Helper()
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	if left := l.processes(); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), l.dir+"/") {
		t.Errorf("mounts are left")
	}
	if _, err := netlink.LinkByName(l.bridge()); err == nil {
		t.Errorf("the bridge is left")
	}
	if l.cgroupExists() || (layout{dir: l.dir, id: l.id + "-daemons"}).cgroupExists() {
		t.Errorf("control groups are left")
	}
	if out, err := exec.Command("nft", "list", "tables").Output(); err == nil && strings.Contains(string(out), l.table()) {
		t.Errorf("the nftables table is left")
	}
}

func TestUpAndDown(t *testing.T) {
	o := upOptions(t)
	e, end := begin(t, o)
	read, err := client.ReadEndpoint(o.State)
	if err != nil || read.Address != e.Address || read.Simulation == nil {
		t.Errorf("manager.json: %+v, %v", read, err)
	}
	var held *lockedError
	if err := Up(t.Context(), o, slog.New(slog.DiscardHandler), nil); !errors.As(err, &held) || held.pid != os.Getpid() {
		t.Errorf("a second Up: %v", err)
	}
	c := client.NewManager(ident.Address(e.Address), client.ManagerOptions{CertSHA256: e.CertSHA256})
	if info, err := c.Info(t.Context()); err != nil || len(info.Parts) < 5 {
		t.Errorf("Info: %+v, %v", info, err)
	}
	l, _ := newLayout(o.State)
	containerd := func() int {
		for _, p := range l.processes() {
			if p.name == "containerd" {
				return p.pid
			}
		}
		return 0
	}
	pid := containerd()
	if pid == 0 {
		t.Fatal("no containerd")
	}
	// SIGTERM leaves containerd and what runs on it.
	if err := end(nil); err != nil {
		t.Errorf("Up, after SIGTERM: %v", err)
	}
	if containerd() != pid {
		t.Errorf("containerd ended too")
	}
	again, end := begin(t, o)
	if containerd() != pid {
		t.Errorf("another containerd")
	}
	if again.CAS.Instances != e.CAS.Instances || again.Address != e.Address {
		t.Errorf("other ports: %+v, were %+v", again, e)
	}
	if err := end(errStop); err != nil {
		t.Errorf("Up, after Ctrl-C: %v", err)
	}
	nothingLeft(t, o)
	// Down and Cleanup are happy with nothing to do.
	if err := stopAll(t.Context(), o, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("Down: %v", err)
	}
}

func TestFailedUpLeavesNothing(t *testing.T) {
	o := upOptions(t)
	o.CAS = "" // beside this program, where there is none
	err := Up(t.Context(), o, slog.New(slog.DiscardHandler), func(Serving) error { return nil })
	if err == nil || problem.From(err).Rule != "cas_missing" {
		t.Errorf("Up: %v", err)
	}
	nothingLeft(t, o)
	o.CAS, o.Launcher = o.Launcher, ""
	if err := Up(t.Context(), o, slog.New(slog.DiscardHandler), nil); err == nil || problem.From(err).Rule != "launcher_missing" {
		t.Errorf("Up: %v", err)
	}
	nothingLeft(t, o)
}

// TestSweep removes what crashed processes left, without their help.
func TestSweep(t *testing.T) {
	o := upOptions(t)
	_, end := begin(t, o)
	if err := end(nil); err != nil { // containerd is left, as by kill -9
		t.Fatal(err)
	}
	l, _ := newLayout(o.State)
	mount := l.path("node", "netns", "left over")
	if err := errors.Join(os.MkdirAll(mount, 0o755), unix.Mount("tmpfs", mount, "tmpfs", 0, "size=64k")); err != nil {
		t.Fatal(err)
	}
	stray := &exec.Cmd{Path: o.CAS, Args: []string{"cupel-cas", "--state", l.path("cas"), "--owners", "127.0.0.1:0", "--instances", "127.0.0.1:0"}}
	held, err := stray.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stray.ExtraFiles = []*os.File{r, w}
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = stray.Wait(); _ = held.Close(); _ = r.Close(); _ = w.Close() }()
	if len(l.processes()) < 2 {
		t.Errorf("found only %v", l.processes())
	}
	if err := l.sweep(t.Context()); err != nil {
		t.Errorf("sweep: %v", err)
	}
	nothingLeft(t, o)
}

func TestCleanupRefusesOtherFolders(t *testing.T) {
	need.Root(t)
	dir := folder(t)
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "thesis.tex"), []byte("x"), 0o644)); err != nil {
		t.Fatal(err)
	}
	_, err := Cleanup(t.Context(), Options{State: dir}, slog.New(slog.DiscardHandler))
	if err == nil || problem.From(err).Rule != "state_folder" {
		t.Errorf("Cleanup: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "thesis.tex")); err != nil {
		t.Errorf("and deleted it: %v", err)
	}
}

func TestMentions(t *testing.T) {
	l := layout{dir: "/var/lib/cupel", id: "0123abcd"}
	for arg, want := range map[string]bool{
		"/var/lib/cupel":                         true,
		"/var/lib/cupel/containerd/config.toml":  true,
		"8388608:5:/var/lib/cupel/node/logs/i-1": true,
		"cupel-0123abcd":                         true,
		"/run/cupel-0123abcd/containerd.sock":    true,
		"/var/lib/cupel2/containerd/config.toml": false,
		"/var/lib/cupels":                        false,
		"cupel-0123abce":                         false,
		"/home/x":                                false,
	} {
		if got := l.mentions(arg); got != want {
			t.Errorf("mentions(%q) = %v", arg, got)
		}
	}
}
