package launcher

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/httpproblem"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/sgxquote"
	"cupel.dev/cupel/internal/trusted/wire"
)

const testConfig = "team/app/web"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// scratch is a folder for the whole run.
var scratch string

// buildLauncher builds the static binary once.
var buildLauncher = sync.OnceValues(func() (string, error) {
	return buildStatic("cupel-init", "cupel.dev/cupel/cmd/cupel-init")
})

// buildStatic builds a program for the inside of an instance.
func buildStatic(name, pkg string) (string, error) {
	bin := filepath.Join(scratch, name)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", bin, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return bin, nil
}

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "cupel-init-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// fakeCAS speaks the release protocol over real TLS, with an identity key and
// a leaf as the CAS has them. It checks what the launcher sends.
type fakeCAS struct {
	t        testing.TB
	identity *ecdsa.PrivateKey
	idCert   *x509.Certificate
	leaf     tls.Certificate

	mu         sync.Mutex
	reply      wire.ReleaseReply
	refuse     *problem.Error
	releases   int
	keepAlives int
	exits      []wire.Exit
	returning  []bool // of each release
	tags       []wire.TagRequest
	refuseTag  *problem.Error
	failFirst  int // releases that are answered with unavailable first
	grants     []string
	kept       func(n int) (wire.KeepAliveReply, error)    // answers the n-th keep-alive, if set
	again      func(n int, reply *wire.ReleaseReply) error // changes the n-th release's answer, if set
	silent     bool                                        // no request is answered any more
	failTags   int                                         // tag requests that are answered so
}

func newFakeCAS(t testing.TB) *fakeCAS {
	t.Helper()
	c := &fakeCAS{t: t}
	var err error
	c.identity, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Cupel CAS"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(30, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, c.identity.Public(), c.identity)
	must(t, err)
	c.idCert, err = x509.ParseCertificate(der)
	must(t, err)
	c.leaf = c.newLeaf(time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
	c.reply = wire.ReleaseReply{Version: wire.ReleaseVersion, Cwd: "/", KeepAliveSeconds: 1}
	return c
}

func (c *fakeCAS) newLeaf(from, to time.Time) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(c.t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, c.idCert, key.Public(), c.identity)
	must(c.t, err)
	return tls.Certificate{Certificate: [][]byte{der, c.idCert.Raw}, PrivateKey: key}
}

func (c *fakeCAS) hash() ident.KeyHash { return ident.HashCertKey(c.idCert) }

func (c *fakeCAS) serve(l net.Listener) *httptest.Server {
	srv := &httptest.Server{
		Listener: l, Config: &http.Server{Handler: c, ErrorLog: nil},
		TLS: &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{c.leaf}},
	}
	srv.Config.ErrorLog = discardLog()
	srv.StartTLS()
	c.t.Cleanup(srv.Close)
	return srv
}

func (c *fakeCAS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent {
		panic(http.ErrAbortHandler)
	}
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	instance := ident.HashCertKey(r.TLS.PeerCertificates[0])
	switch r.URL.Path {
	case wire.PathRelease:
		c.releases++
		if err := c.check(r, instance); err != nil {
			httpproblem.Write(w, "", problem.New(problem.Invalid, "fake_cas", "%w", err))
			return
		}
		if c.failFirst > 0 {
			c.failFirst--
			httpproblem.Write(w, "", problem.New(problem.Unavailable, "starting", "the CAS starts"))
			return
		}
		if c.refuse != nil {
			httpproblem.Write(w, "", c.refuse)
			return
		}
		reply := c.reply
		reply.InstanceID = instance
		if c.again != nil {
			if err := c.again(c.releases, &reply); err != nil {
				httpproblem.Write(w, "", err)
				return
			}
		}
		answer(reply)
	case wire.PathKeepAlive:
		c.keepAlives++
		kept := wire.KeepAliveReply{Version: wire.ReleaseVersion, KeepAliveSeconds: 1}
		if c.kept != nil {
			var err error
			if kept, err = c.kept(c.keepAlives); err != nil {
				httpproblem.Write(w, "", err)
				return
			}
		}
		answer(kept)
	case wire.PathExit:
		var e wire.Exit
		_ = json.NewDecoder(r.Body).Decode(&e)
		c.exits = append(c.exits, e)
		answer(struct{}{})
	case wire.PathTag:
		var req wire.TagRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		if c.failTags > 0 {
			c.failTags--
			httpproblem.Write(w, "", problem.New(problem.Unavailable, "starting", "the CAS starts"))
			return
		}
		if c.refuseTag != nil {
			httpproblem.Write(w, "", c.refuseTag)
			return
		}
		c.tags = append(c.tags, req)
		answer(wire.TagReply{Version: wire.ReleaseVersion, Generation: req.From + 1})
	}
}

// check verifies the channel binding of a release, as the CAS does.
func (c *fakeCAS) check(r *http.Request, instance ident.KeyHash) error {
	var req wire.ReleaseRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return err
	}
	c.grants = append(c.grants, req.Grant.Reveal())
	c.returning = append(c.returning, req.Returning)
	exporter, err := wire.Exporter(r.TLS)
	if err != nil {
		return err
	}
	want := wire.ReportData(exporter, instance)
	if len(req.Evidence.Quote) < sgxquote.SignedLen || !bytes.Equal(req.Evidence.Quote[atReportData:sgxquote.SignedLen], want[:]) {
		return fmt.Errorf("report data is not this connection's")
	}
	if string(req.Session)+"/"+string(req.Service) != testConfig {
		return fmt.Errorf("asked for %s/%s", req.Session, req.Service)
	}
	return nil
}

// fakeQuote has an SGX quote's shape, with CONFIGID and REPORTDATA in place.
func fakeQuote(configID, reportData evidence.Data64) []byte {
	q := make([]byte, 600)
	binary.LittleEndian.PutUint16(q, 3)
	copy(q[atConfigID:], configID[:])
	copy(q[atReportData:], reportData[:])
	return q
}

// fakeHost is LAS and node behind the two sockets of one directory.
type fakeHost struct {
	dir      string
	configID evidence.Data64
	quote    func(configID, reportData evidence.Data64) (evidence.Evidence, error)

	mu        sync.Mutex
	memory    uint64 // of the instance
	stored    map[string][]byte
	phases    []wire.Phase
	deaf      bool // reports are lost
	last      wire.Status
	said      []wire.Status
	grace     time.Duration // that it names to the launcher; 0: none
	refusePut *problem.Error
	refuseGet *problem.Error
	slowPut   chan struct{} // if set, a PUT waits until it is closed
	breakGets int           // GETs that break off in the middle
}

func newFakeHost(t testing.TB, configID evidence.Data64) *fakeHost {
	t.Helper()
	h := &fakeHost{dir: t.TempDir(), configID: configID, stored: map[string][]byte{}}
	h.quote = func(configID, reportData evidence.Data64) (evidence.Evidence, error) {
		return evidence.Evidence{Type: evidence.SGX, Quote: fakeQuote(configID, reportData)}, nil
	}
	las, node := http.NewServeMux(), http.NewServeMux()
	las.HandleFunc("POST "+wire.PathQuote, func(w http.ResponseWriter, r *http.Request) {
		var req wire.QuoteRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		ev, err := h.quote(h.configID, req.ReportData)
		if err != nil {
			httpproblem.Write(w, "", err)
			return
		}
		_ = json.NewEncoder(w).Encode(ev)
	})
	node.HandleFunc("GET "+wire.PathVolumes+"{id}", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.refuseGet != nil {
			httpproblem.Write(w, "", h.refuseGet)
			return
		}
		b, ok := h.stored[r.PathValue("id")+"@"+r.FormValue(wire.QueryGeneration)]
		if !ok {
			httpproblem.Write(w, "", problem.New(problem.NotFound, "snapshot", "none"))
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		if h.breakGets > 0 {
			h.breakGets--
			_, _ = w.Write(b[:len(b)/2])
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(b)
	})
	node.HandleFunc("PUT "+wire.PathVolumes+"{id}", func(w http.ResponseWriter, r *http.Request) {
		if h.slowPut != nil {
			<-h.slowPut
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.refusePut != nil {
			httpproblem.Write(w, "", h.refusePut)
			return
		}
		most := int64(wire.MaxSnapshot(wire.Budget(h.memory))) // as the node has it
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
		if err != nil {
			httpproblem.Write(w, "", problem.New(problem.Invalid, "volume_too_large", "more than %d bytes", most))
			return
		}
		h.stored[r.PathValue("id")+"@"+r.FormValue(wire.QueryGeneration)] = b
		w.WriteHeader(http.StatusNoContent)
	})
	node.HandleFunc("POST "+wire.PathStatus, func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.deaf {
			httpproblem.Write(w, "", problem.New(problem.Unavailable, "down", "nobody listens"))
			return
		}
		var s wire.Status
		_ = json.NewDecoder(r.Body).Decode(&s)
		h.phases, h.last, h.said = append(h.phases, s.Phase), s, append(h.said, s)
		_ = json.NewEncoder(w).Encode(wire.Orders{GraceMillis: h.grace.Milliseconds()})
	})
	for name, handler := range map[string]http.Handler{wire.Socket: las, wire.NodeSocket: node} {
		l, err := net.Listen("unix", filepath.Join(h.dir, name))
		must(t, err)
		must(t, os.Chmod(filepath.Join(h.dir, name), 0o777)) // hostile apps must fail for another reason
		srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler, ErrorLog: discardLog()}}
		srv.Start()
		t.Cleanup(srv.Close)
	}
	return h
}

// netns is a network namespace held by one locked thread: nothing of it is
// left when the test process is gone.
type netns struct {
	path string
	work chan func()
}

func newNetns(t testing.TB) *netns {
	t.Helper()
	n := &netns{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		n.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		if err == nil {
			err = loopbackUp()
		}
		ready <- err
		for f := range n.work {
			f()
		}
	}()
	must(t, <-ready)
	t.Cleanup(func() { close(n.work) })
	return n
}

func (n *netns) do(f func()) {
	done := make(chan struct{})
	n.work <- func() { defer close(done); f() }
	<-done
}

func (n *netns) listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	var err error
	n.do(func() { l, err = net.Listen("tcp", addr) })
	must(t, err)
	return l
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// sandbox is one instance under runc and the launch profile, on a root that is
// an overlay like a container engine's, with a fake CAS, LAS and node.
type sandbox struct {
	t      testing.TB
	cas    *fakeCAS
	host   *fakeHost
	net    *netns
	addr   string // CAS address that the instance gets
	id     string
	bundle string
	rootfs string // mounted overlay
	env    []string
	mounts []map[string]any // additional, hostile
	img    launch.ImageConfig
	memory int64
	edit   func(spec map[string]any) // of a hostile host; may be nil
	under  []string                  // what runc is started by, with its arguments
	out    output
	errs   output
}

var sandboxes atomic.Int64

func newSandbox(t testing.TB) *sandbox {
	t.Helper()
	need.Root(t)
	need.Programs(t, "runc", "busybox")
	s := &sandbox{t: t, cas: newFakeCAS(t), net: newNetns(t), memory: 256 << 20}
	config, err := ident.ParseServiceRef(testConfig)
	must(t, err)
	s.host = newFakeHost(t, wire.LaunchBinding(s.cas.hash(), config.Session, config.Service))
	l := s.net.listen(t, "127.0.0.1:0")
	s.addr = l.Addr().String()
	s.cas.serve(l)
	s.id = fmt.Sprintf("cupel-launcher-test-%d-%d", os.Getpid(), sandboxes.Add(1))
	s.env = []string{"CUPEL_CAS_ADDR=" + s.addr, "CUPEL_LAS_ADDR=" + launch.LASAddr, "CUPEL_CONFIG_ID=" + testConfig, "CUPEL_GRANT="}
	s.img = launch.ImageConfig{
		DiffIDs: []ident.Digest{{1}}, User: "app", Cwd: "/home/app", Env: []string{"PATH=/bin:/usr/bin", "FROM_IMAGE=yes"},
		Cmd: []string{"/bin/sh", "-c", "echo default command"},
	}
	s.makeRoot()
	return s
}

func (s *sandbox) makeRoot() {
	t := s.t
	s.bundle = t.TempDir()
	lower := filepath.Join(s.bundle, "lower")
	for _, d := range []string{"bin", "usr/bin", "etc", "tmp", "home/app", "proc", "dev", "sys", "run/cupel"} {
		must(t, os.MkdirAll(filepath.Join(lower, d), 0o755))
	}
	must(t, os.Chown(filepath.Join(lower, "run/cupel"), 1500, 1600)) // for statements
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	b, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(lower, "bin/busybox"), b, 0o755))
	applets, err := exec.Command(busybox, "--list").Output()
	must(t, err)
	for _, a := range strings.Fields(string(applets)) {
		if a != "busybox" {
			must(t, os.Symlink("busybox", filepath.Join(lower, "bin", a)))
		}
	}
	must(t, os.WriteFile(filepath.Join(lower, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\napp:x:1500:1600::/home/app:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(lower, "etc/group"), []byte("root:x:0:\napp:x:1600:\nextra:x:1700:other,app\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(lower, "etc/not-executable"), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(lower, "bin/bad-interpreter"), []byte("#!/no/such/interpreter\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(lower, "bin/empty"), nil, 0o755))
	s.rootfs = filepath.Join(s.bundle, "rootfs")
	for _, d := range []string{"rootfs", "upper", "work"} {
		must(t, os.Mkdir(filepath.Join(s.bundle, d), 0o755))
	}
	must(t, unix.Mount("overlay", s.rootfs, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, s.bundle, s.bundle)))
	t.Cleanup(func() { _ = unix.Unmount(s.rootfs, unix.MNT_DETACH) })
	must(t, os.WriteFile(filepath.Join(s.bundle, "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(s.bundle, "hosts"), []byte("127.0.0.1 localhost\n"), 0o644))
}

// spec writes config.json by the launch profile, plus the test's hostile extras.
func (s *sandbox) spec() {
	t := s.t
	s.host.memory = uint64(s.memory)
	bin, err := buildLauncher()
	must(t, err)
	b, err := launch.Spec(launch.Newest, s.img)
	must(t, err)
	b, err = launch.Fill(b, launch.Free{
		CASAddr: s.addr, LASAddr: launch.LASAddr, ConfigID: testConfig,
		Root: s.rootfs, Hostname: "instance", CgroupsPath: "/" + s.id, NetworkNamespace: s.net.path,
		Memory: s.memory, Pids: 100,
		ResolvConf: filepath.Join(s.bundle, "resolv.conf"), Hosts: filepath.Join(s.bundle, "hosts"), SocketDir: s.host.dir, Launcher: bin,
	})
	must(t, err)
	var spec map[string]any
	must(t, json.Unmarshal(b, &spec))
	spec["process"].(map[string]any)["env"] = s.env
	mounts := spec["mounts"].([]any)
	for _, m := range s.mounts {
		mounts = append(mounts, m)
	}
	spec["mounts"] = mounts
	if s.edit != nil {
		s.edit(spec)
	}
	b, err = json.Marshal(spec)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(s.bundle, "config.json"), b, 0o600))
}

// command is the app that the CAS releases: a shell script.
func (s *sandbox) command(script string) { s.cas.reply.Argv = []string{"/bin/sh", "-c", script} }

// start runs the instance; wait returns its exit code.
func (s *sandbox) start() (wait func() int) {
	t := s.t
	t.Helper()
	s.spec()
	state := filepath.Join(s.bundle, "runc")
	argv := append(slices.Clone(s.under), "runc", "--root", state, "run", "--bundle", s.bundle, s.id)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &s.out, &s.errs
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = exec.Command("runc", "--root", state, "delete", "-f", s.id).Run()
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + s.id)
		for _, d := range append(dirs, "/sys/fs/cgroup/"+s.id) {
			_ = os.Remove(d)
		}
	})
	return func() int {
		timer := time.AfterFunc(90*time.Second, func() {
			_ = exec.Command("runc", "--root", state, "kill", s.id, "KILL").Run()
		})
		defer timer.Stop()
		_ = cmd.Wait()
		if cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
			t.Fatalf("runc: %v", cmd.ProcessState)
		}
		return cmd.ProcessState.ExitCode()
	}
}

// signal sends one to PID 1 of the instance.
func (s *sandbox) signal(sig string) {
	s.t.Helper()
	out, err := exec.Command("runc", "--root", filepath.Join(s.bundle, "runc"), "kill", s.id, sig).CombinedOutput()
	if err != nil {
		s.t.Fatalf("kill: %v %s", err, out)
	}
}

// run runs the instance to its end and checks the exit code.
func (s *sandbox) run(want int) {
	s.t.Helper()
	if got := s.start()(); got != want {
		s.t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", got, want, &s.out, &s.errs)
	}
}

// refused runs the instance and checks that it refused by rule, on the
// standard error and to the node.
func (s *sandbox) refused(code int, rule problem.Rule) {
	s.t.Helper()
	s.run(code)
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	if s.host.last.Phase != wire.Refused || s.host.last.Problem == nil || s.host.last.Problem.Rule != rule || s.host.last.Code != code {
		s.t.Errorf("status %+v %v, want refused by %s", s.host.last, s.host.last.Problem, rule)
	}
	if !strings.Contains(s.errs.String(), string(rule)) {
		s.t.Errorf("stderr %q doesn't name %s", &s.errs, rule)
	}
	for line := range strings.Lines(s.errs.String()) {
		if !strings.HasPrefix(line, "cupel-init: ") {
			s.t.Errorf("stderr line %q", line)
		}
	}
}

// addVolume makes the CAS release a volume.
func (s *sandbox) addVolume(access owners.Access) ident.Digest {
	key := sha256.Sum256([]byte("volume key"))
	id := ident.Sum([]byte("genesis"))
	s.cas.reply.Volumes = []wire.Volume{{Name: "genesis", ID: id, Path: "/home/app/data", Key: key[:], Access: access, Lease: 7}}
	return id
}

// addSecondVolume makes it release another one beside it.
func (s *sandbox) addSecondVolume(access owners.Access) {
	key := sha256.Sum256([]byte("another volume key"))
	s.cas.reply.Volumes = append(s.cas.reply.Volumes, wire.Volume{Name: "more", ID: ident.Sum([]byte("more")), Path: "/home/app/more", Key: key[:], Access: access, Lease: 8})
}

func parse(t testing.TB, ders [][]byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		out = append(out, c)
	}
	return out
}
