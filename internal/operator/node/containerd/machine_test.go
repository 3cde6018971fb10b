package containerd_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	ggcrtypes "github.com/google/go-containerregistry/pkg/v1/types"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/las"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/node"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/operator/node/cni"
	"cupel.dev/cupel/internal/operator/node/containerd"
	"cupel.dev/cupel/internal/operator/node/logfile"
	"cupel.dev/cupel/internal/operator/node/sysctl"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/launch"
)

// TestMain is also the writer process of the instances' logs, and their runc.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == logfile.Verb {
		if err := logfile.Main(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if filepath.Base(os.Args[0]) == "runc" {
		os.Exit(wrapRunc(os.Args[1:]))
	}
	os.Exit(run(m))
}

// fakeLauncher is the path of testdata/launcher, built once.
var fakeLauncher func() (string, error)

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cupel-node-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := beRunc(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fakeLauncher = sync.OnceValues(func() (string, error) {
		path := filepath.Join(dir, "launcher")
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, "./testdata/launcher")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the test's launcher: %w\n%s", err, out)
		}
		return path, nil
	})
	return m.Run()
}

// machine is what stays when the daemon dies: the state folder, containerd, the
// registry with the image.
type machine struct {
	t        *testing.T
	state    string
	id       string
	launcher string
	image    ident.ImageRef
	config   []byte
	logger   *slog.Logger
	limits   logfile.Limits
	wrap     func(node.Runtime) node.Runtime // what the node gets instead of the runtime
	registry func(http.Handler) http.Handler // what containerd gets instead of the registry
	patience time.Duration                   // with containerd; zero: the default

	mu      sync.Mutex
	told    []string // of containerd
	stopped []string // node.ReasonStopped, of the node
}

func (m *machine) tells() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.told)
}

// stops are the node's events of processes that were stopped.
func (m *machine) stops() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.stopped)
}

// life is one life of the daemon.
type life struct {
	*machine
	node    *node.Node
	runtime *containerd.Runtime
	daemon  *containerd.Daemon
	network *cni.Network
	kill    func() // the daemon's process is gone; what runs goes on
}

func needMachine(t *testing.T) {
	t.Helper()
	need.Root(t)
	need.Programs(t, "containerd", "runc")
	need.File(t, filepath.Join(cni.PluginDir, "bridge"))
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	needMachine(t)
	t.Parallel() // machines know nothing of each other
	m := &machine{t: t, state: t.TempDir(), logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	// A folder that no socket path fits into.
	m.state = filepath.Join(m.state, strings.Repeat("long", 30))
	if err := os.Mkdir(m.state, 0o711); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(m.state))
	m.id = hex.EncodeToString(sum[:4])
	var err error
	if m.launcher, err = fakeLauncher(); err != nil {
		t.Fatal(err)
	}
	m.pushImage(make([]byte, 1024)) // an empty archive
	return m
}

// pushImage puts an image with one layer, an archive, into a registry of its own: it is
// the one that instances are of from now on.
func (m *machine) pushImage(layer []byte) {
	m.t.Helper()
	stored := registry.New(registry.Logger(slog.NewLogLogger(m.logger.Handler(), slog.LevelDebug)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.registry != nil {
			m.registry(stored).ServeHTTP(w, r)
			return
		}
		stored.ServeHTTP(w, r)
	}))
	m.t.Cleanup(server.Close)
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, ggcrtypes.OCIManifestSchema1),
		static.NewLayer(layer, ggcrtypes.OCIUncompressedLayer))
	if err != nil {
		m.t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		m.t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	cf.Config = v1.Config{User: "1000", Env: []string{"PATH=/bin"}, Entrypoint: []string{"/bin/app"}}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		m.t.Fatal(err)
	}
	img = mutate.ConfigMediaType(img, ggcrtypes.OCIConfigJSON)
	d, err := img.Digest()
	if err != nil {
		m.t.Fatal(err)
	}
	m.image = ident.ImageRef(strings.TrimPrefix(server.URL, "http://") + "/test/app@" + d.String())
	ref, err := name.NewDigest(string(m.image), name.Insecure)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		m.t.Fatal(err)
	}
	if m.config, err = img.RawConfigFile(); err != nil {
		m.t.Fatal(err)
	}
}

// live starts the daemon's parts. Everything is taken down when the test ends.
func (m *machine) live() *life {
	m.t.Helper()
	t := m.t
	ctx, cancel := context.WithCancel(t.Context())
	l := &life{machine: m}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	l.daemon, err = containerd.Open(ctx, containerd.DaemonConfig{
		Dir: filepath.Join(m.state, "containerd"), ID: m.id, Logger: m.logger, Patience: m.patience,
		Tell: func(_, message string) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.told = append(m.told, message)
		},
	})
	must(err)
	// Whatever the test comes to, in reverse order; all of it may be gone already.
	cleanup := func(f func(context.Context) error) {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_ = f(ctx)
		})
	}
	cleanup(func(context.Context) error { cancel(); return nil })
	cleanup(l.daemon.Stop)
	l.runtime, err = containerd.New(containerd.Config{
		Daemon: l.daemon, Namespace: "cupel-" + m.id, RuncRoot: filepath.Join(m.state, "runc"), Logger: m.logger,
	})
	must(err)
	must(l.runtime.EndLeases(ctx))
	l.network, err = cni.Open(cni.Config{Dir: filepath.Join(m.state, "cni"), ID: m.id, PluginDir: cni.PluginDir, Sysctl: sysctl.Default()})
	must(err)
	cleanup(func(context.Context) error { return l.network.Close() })
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	must(err)
	platform, err := simtee.Open(filepath.Join(m.state, "simtee"), time.Now)
	must(err)
	server := las.New(las.Config{
		Inspector: l.runtime, Platform: platform, Cgroups: groups, Listen: node.ListenUnix, Logger: m.logger, Now: time.Now,
	})
	self, err := os.Executable()
	must(err)
	var rt node.Runtime = l.runtime
	if m.wrap != nil {
		rt = m.wrap(rt)
	}
	l.node, err = node.New(node.Config{
		State: m.state, Cgroup: cgroup.Path("/cupel-" + m.id), Launcher: m.launcher, LogWriter: self, CASAddr: "127.0.0.1:1",
		Runtime: rt, Monitor: l.runtime, Images: l.runtime, Network: l.network, Attester: server,
		Cgroups: groups, Limits: m.limits, Logger: m.logger, Now: time.Now,
		Tell: func(in manager.Incident) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if in.Reason == node.ReasonStopped {
				m.stopped = append(m.stopped, in.Message)
			}
		},
	})
	must(err)
	cleanup(func(ctx context.Context) error {
		if _, err := os.Stat(l.daemon.Address()); err != nil {
			return nil // taken down already
		}
		return l.node.RemoveAll(ctx)
	})
	must(l.node.Adopt(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.node.Run(ctx)
	}()
	daemonDone := make(chan struct{})
	go func() {
		defer close(daemonDone)
		_ = l.daemon.Run(ctx)
	}()
	l.kill = func() {
		cancel()
		<-done
		<-daemonDone
		_ = l.runtime.Close()
	}
	return l
}

// leave takes everything down and checks that nothing is left.
func (l *life) leave() {
	t := l.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.node.RemoveAll(ctx); err != nil {
		t.Error(err)
	}
	l.kill()
	if err := l.daemon.Stop(ctx); err != nil {
		t.Error(err)
	}
	if err := l.network.Close(); err != nil {
		t.Error(err)
	}
	for what, pattern := range map[string]string{
		"control group": "/sys/fs/cgroup/*/cupel-" + l.id, "bridge": "/sys/class/net/cpl" + l.id,
		"namespace": l.state + "/netns/*", "record": l.state + "/instances/*", "sockets": l.state + "/run/*",
		"leases": l.state + "/cni/leases", "short name": "/run/cupel-" + l.id,
	} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left behind: %s: %v", what, left)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), l.state) {
		t.Errorf("left behind: a mount below %s (%v)", l.state, err)
	}
	// The writers of the logs end by themselves when their instances have.
	var left []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if left = processesOf(l.state); len(left) == 0 {
			return
		}
	}
	t.Errorf("left behind: processes %q", left)
}

// processesOf returns the command lines that name the state folder.
func processesOf(state string) []string {
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, _ := os.ReadFile(p); bytes.Contains(b, []byte(state)) {
			found = append(found, string(b))
		}
	}
	return found
}

func (l *life) spec(id ident.AttemptID, behaviour string) manager.InstanceSpec {
	return manager.InstanceSpec{
		ID: id, App: "a-1", AppName: "Test App", Config: ident.ServiceRef{Session: "test", Service: ident.ServiceName(behaviour)},
		Binding: evidence.Data64{9}, Image: l.image, Memory: 128 << 20, Labels: map[string]string{"k": "v"}, Profile: launch.Newest,
	}
}

func (l *life) start(id ident.AttemptID, behaviour string, port uint16) {
	l.t.Helper()
	if _, err := l.node.EnsureImage(l.t.Context(), l.image); err != nil {
		l.t.Fatal(err)
	}
	s := l.spec(id, behaviour)
	s.Port = port
	if err := l.node.Start(l.t.Context(), s); err != nil {
		l.t.Fatal(err)
	}
}

// status waits until ok holds for the instance.
func (l *life) status(id ident.AttemptID, ok func(manager.InstanceStatus) bool) manager.InstanceStatus {
	l.t.Helper()
	var last manager.InstanceStatus
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		list, err := l.node.List(l.t.Context())
		if err != nil {
			l.t.Fatal(err)
		}
		for _, s := range list {
			if s.ID == id {
				if last = s; ok(s) {
					return s
				}
			}
		}
	}
	l.t.Fatalf("instance %s stays at %+v\n%s", id, last, strings.Join(l.lines(id), "\n"))
	return last
}

func running(s manager.InstanceStatus) bool { return s.State == manager.StateRunning }
func exited(s manager.InstanceStatus) bool  { return s.State == manager.StateExited }

func (l *life) lines(id ident.AttemptID) []string {
	r, err := l.node.Logs(context.Background(), id, manager.LogOptions{Tail: -1})
	if err != nil {
		return []string{err.Error()}
	}
	defer r.Close()
	return readLines(r)
}

// output waits for the first n lines of an instance's output.
func (l *life) output(id ident.AttemptID, n int) []string {
	l.t.Helper()
	var got []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if got = l.lines(id); len(got) >= n {
			return got
		}
	}
	l.t.Fatalf("instance %s wrote %q only, want %d lines", id, got, n)
	return nil
}

func readLines(r io.Reader) []string {
	var out []string
	for s := bufio.NewScanner(r); s.Scan(); {
		var line manager.LogLine
		if json.Unmarshal(s.Bytes(), &line) == nil {
			out = append(out, line.Line)
		}
	}
	return out
}

func pidOf(t *testing.T, l *life, id ident.AttemptID) int {
	t.Helper()
	launched, err := l.runtime.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return launched.PID
}
