//go:build e2e

package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/testing/netlab"
)

// World is one installation with everybody around it.
type World struct {
	T        testing.TB
	Dir      string // everything is below; its parents are open to all users
	Bin      string // cupel, cupeld, cupel-cas, cupel-init, cupel-log
	State    string // the operator's state folder
	Runtimes string // definitions and locks of the runtime images
	Operator *Party // runs as root, with State
	Git      *GitServer

	disk   string // mount point of the state folder's own disk
	before leftovers
	reaper *reaper
}

// Config changes the world that New makes.
type Config struct {
	UpFlags []string // further flags for `cupel up`
	UpEnv   []string // further environment for it
	Bin     string   // other binaries than bin/: test-only builds
	NoUp    bool     // the test runs `cupel up` itself
	Disk    int64    // bytes: the state folder is on a disk of its own, of this size
	Ext4    bool     // that disk keeps its last blocks for root, as ext4 does
}

// New makes a world and brings the operator up in it.
func New(t testing.TB, cfg Config) *World {
	t.Helper()
	need.Root(t)
	w := &World{T: t, Bin: cfg.Bin}
	if w.Bin == "" {
		w.Bin = binaries(t)
	}

	w.makeFolders()

	if cfg.Disk > 0 {
		w.disk = filepath.Join(w.Dir, "disk")
		w.State = filepath.Join(w.disk, "state")
	}

	w.before = w.look()
	w.reaper = startReaper(t, w)
	t.Cleanup(w.end)

	w.mountDisk(cfg)
	w.copyBinaries()
	w.copyRuntimes()
	w.giveRegistry()

	w.Operator = &Party{
		world: w,
		Name:  "operator",
		Dir:   w.folder("operator", 0),
		root:  true,
	}
	w.Git = startGit(w)

	if !cfg.NoUp {
		w.Up(cfg.UpFlags, cfg.UpEnv)
	}

	return w
}

// AlreadyRuns is the exit code of an up that finds what it wants.
const AlreadyRuns = 10

// Up runs `cupel up --detach` on free ports; run again, on the same ones. One that
// runs already is as good.
func (w *World) Up(flags, env []string) {
	w.T.Helper()
	if r := w.tryUp(flags, env); r.Code != 0 && r.Code != AlreadyRuns {
		w.T.Fatalf("operator: %s", r)
	}
}

// TryUp is Up that may fail.
func (w *World) TryUp() Result {
	w.T.Helper()
	return w.tryUp(nil, nil)
}

// tryUp is `cupel up`, whatever comes of it.
func (w *World) tryUp(flags, env []string) Result {
	w.T.Helper()
	args := append([]string{"up", "--detach"}, w.ListenFlags()...)
	return w.Operator.with(env).Run(append(args, flags...)...)
}

// ListenFlags of `cupel up` keep the ports of the first start, as a real operator's
// are fixed: owners have pinned them, instances were told them.
func (w *World) ListenFlags() []string {
	file := filepath.Join(w.Dir, "ports.json")
	flags := map[string]string{}
	if data, err := os.ReadFile(file); err == nil {
		w.must(json.Unmarshal(data, &flags))
	} else {
		for flag, host := range map[string]string{
			"--manager-listen":  "127.0.0.1",
			"--cas-owners":      "127.0.0.1",
			"--cas-instances":   "0.0.0.0",
			"--registry-listen": "127.0.0.1",
		} {
			flags[flag] = fmt.Sprintf("%s:%d", host, FreePort(w.T))
		}
		data, err := json.Marshal(flags)
		w.must(err)
		w.must(os.WriteFile(file, data, 0o600))
	}

	var args []string
	for flag, addr := range flags {
		args = append(args, flag, addr)
	}

	return args
}

// Info is what `<state>/manager.json` tells every local user.
type Info struct {
	Address    string `json:"address"`
	CertSHA256 string `json:"cert_sha256"`
	Registry   string `json:"registry"`
	PID        int    `json:"pid"`
	Simulation string `json:"simulation"` // digest of the simulated platform's root
	CAS        struct {
		Owners    string `json:"owners"`
		Instances string `json:"instances"`
		Identity  string `json:"identity"`
	} `json:"cas"`
}

// Info reads where the running installation listens.
func (w *World) Info() Info {
	w.T.Helper()

	var info Info
	data, err := os.ReadFile(filepath.Join(w.State, "manager.json"))
	w.must(err)
	w.must(json.Unmarshal(data, &info))
	return info
}

// ID is what the installation's names on the machine are made of.
func (w *World) ID() string {
	sum := sha256.Sum256([]byte(w.State))
	return hex.EncodeToString(sum[:4])
}

// Owner makes an owner: a person without root, with a folder of their own.
func (w *World) Owner(name string) *Party {
	w.T.Helper()
	return &Party{world: w, Name: name, Dir: w.folder(name, nobody)}
}

// RemoteOwner makes an owner on another machine: a network namespace, with cupel and
// nothing else of Cupel, no state folder, and the address of the operator's manager.
func (w *World) RemoteOwner(name string, space *netlab.Space, provider string) *Party {
	w.T.Helper()
	p := w.Owner(name)

	p.space = space
	p.env = []string{"CUPEL_PROVIDER=" + provider, "CUPEL_STATE=" + filepath.Join(p.Dir, "none")}

	p.bin = filepath.Join(p.Dir, "bin")
	w.must(os.Mkdir(p.bin, 0o755))
	w.must(os.Chown(p.bin, nobody, nobody))

	program, err := os.ReadFile(filepath.Join(w.Bin, "cupel"))
	w.must(err)
	w.must(os.WriteFile(filepath.Join(p.bin, "cupel"), program, 0o755))

	return p
}

// Eventually retries f until it returns nil; it fails the test after limit.
func (w *World) Eventually(limit time.Duration, f func() error) {
	w.T.Helper()
	var err error
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
		if time.Now().After(end) {
			w.T.Fatalf("not within %s: %v", limit, err)
		}
	}
}

// FreePort returns a TCP port that nobody holds on any address right now.
func FreePort(t testing.TB) uint16 {
	t.Helper()

	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}

	defer func() { _ = ln.Close() }()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

// nobody is the user of owners, and of all that needs no root.
const nobody = 65534

// makeFolders makes the world's folder.
func (w *World) makeFolders() {
	w.T.Helper()
	// Not t.TempDir: the CAS's user and owners have to get through, and
	// sockets have to fit into 108 bytes.
	dir, err := os.MkdirTemp("", "cupel-e2e-")
	w.must(err)
	w.Dir = dir
	w.must(os.Chmod(dir, 0o755))
	w.State = filepath.Join(dir, "state")
}

// mountDisk makes the state folder's own disk, if the world has one.
func (w *World) mountDisk(cfg Config) {
	if w.disk == "" {
		return
	}
	w.must(os.Mkdir(w.disk, 0o755))

	if !cfg.Ext4 {
		w.must(unix.Mount("tmpfs", w.disk, "tmpfs", unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0755", cfg.Disk)))
		return
	}

	image := w.disk + ".ext4"
	w.must(os.WriteFile(image, nil, 0o600))
	w.must(os.Truncate(image, cfg.Disk))

	for _, command := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, w.disk}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			need.Missing(w.T, "a loop device: "+string(out))
		}
	}
}

// folder makes a party's folder, closed to all others.
func (w *World) folder(name string, uid int) string {
	dir := filepath.Join(w.Dir, name)
	w.must(os.Mkdir(dir, 0o700))
	w.must(os.Chown(dir, uid, uid))
	return dir
}

// copyBinaries puts the programs where every party can run them.
func (w *World) copyBinaries() {
	to := filepath.Join(w.Dir, "bin")

	w.must(os.Mkdir(to, 0o755))
	for _, name := range []string{"cupel", "cupeld", "cupel-cas", "cupel-init", "cupel-log"} {
		data, err := os.ReadFile(filepath.Join(w.Bin, name))
		w.must(err)
		w.must(os.WriteFile(filepath.Join(to, name), data, 0o755))
	}
	w.Bin = to
}

// copyRuntimes takes the definitions, so that tests leave the source tree alone.
func (w *World) copyRuntimes() {
	w.Runtimes = filepath.Join(w.Dir, "runtimes")
	w.must(os.Mkdir(w.Runtimes, 0o755))

	files, err := filepath.Glob(filepath.Join(source(), "runtimes", "*.yml"))
	w.must(err)

	for _, f := range files {
		w.must(copyFile(f, filepath.Join(w.Runtimes, filepath.Base(f))))
	}
}

// end shows what happened if the test failed, takes everything down and looks
// for what stayed.
func (w *World) end() {
	if w.T.Failed() {
		w.showLogs()
	}

	w.takeDown()
	if w.disk != "" {
		if err := unix.Unmount(w.disk, 0); err != nil {
			w.T.Errorf("unmount the state folder's disk: %v", err)
		}
	}

	if left := w.look().minus(w.before); len(left) > 0 {
		w.T.Errorf("left on the machine:\n  %s", strings.Join(left, "\n  "))
	}

	if w.T.Failed() && os.Getenv("CUPEL_E2E_KEEP") != "" {
		w.T.Logf("kept %s", w.Dir)
	} else if err := os.RemoveAll(w.Dir); err != nil {
		w.T.Errorf("remove the test's folder: %v", err)
	}

	w.reaper.dismiss()
}

// takeDown ends the installation as an operator would.
func (w *World) takeDown() {
	if w.Operator != nil {
		if r := w.Operator.Run("cleanup", "--yes"); r.Code != 0 {
			w.T.Errorf("cupel cleanup: %s", r)
		}
	}

	if w.Git != nil {
		w.Git.stop()
	}
}

// showLogs prints the ends of the daemons' logs and the manager's events.
func (w *World) showLogs() {
	if w.Operator == nil {
		return
	}

	if r := w.Operator.Run("events"); r.Code == 0 {
		w.T.Logf("events:\n%s", r.Stdout)
	}

	var logs []string
	_ = filepath.WalkDir(w.State, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir() && (d.Name() == "root" || d.Name() == "snapshots" || d.Name() == "cache"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".log"):
			logs = append(logs, path)
		}
		return nil
	})

	for _, path := range logs {
		data, err := os.ReadFile(path)
		if err != nil || len(data) == 0 {
			continue
		}
		w.T.Logf("%s:\n%s", strings.TrimPrefix(path, w.Dir), data[max(0, len(data)-8000):])
	}
}

// must ends the test at an error.
func (w *World) must(err error) {
	if err != nil {
		w.T.Helper()
		w.T.Fatal(err)
	}
}

// source is the folder of the source tree; tests run in their package's.
func source() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}

	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	panic("the tests run outside the source tree")
}

// binaries is the folder of what was built.
func binaries(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("CUPEL_BIN")
	if dir == "" {
		dir = filepath.Join(source(), "bin")
	}

	if _, err := os.Stat(filepath.Join(dir, "cupel")); err != nil {
		t.Fatalf("%v: run 'make build'", err)
	}
	return dir
}
