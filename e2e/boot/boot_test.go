//go:build e2e

// Package boot holds the promise that an installation comes up with its machine, by
// the unit of `cupel install-service`: after a shutdown, after a power cut, and with
// a clock that isn't set yet. A real systemd is process 1 of namespaces of its own.
package boot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/need"
)

// machine is one that boots again and again from the same disk.
type machine struct {
	t      *testing.T
	folder string
	group  string
	boots  int
	booted time.Time
	cmd    *exec.Cmd
	log    bytes.Buffer
}

func TestBoot(t *testing.T) {
	need.Root(t)
	need.File(t, "/lib/systemd/systemd")
	need.Programs(t, "unshare", "containerd", "runc")
	folder, err := os.MkdirTemp("/var/tmp", "cupel-boot-")
	must(t, err)
	must(t, os.Chmod(folder, 0o755))
	m := &machine{t: t, folder: folder, group: fmt.Sprintf("cupel-boot-%d", os.Getpid())}
	t.Cleanup(m.remove)
	m.install()

	m.boot()
	m.serves()
	m.powerCut()

	m.boot()
	m.serves()
	m.shutDown()
	if _, err := os.Stat(m.state("manager.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("at shutdown cupeld was killed, not stopped in order: %v", err)
	}

	// The clock stands before what was written; then it is set.
	future := time.Now().Add(20 * time.Second)
	must(t, os.Chtimes(m.state("ports.json"), future, future))
	m.boot()
	m.serves()
	if time.Now().Before(future.Add(-2 * time.Second)) {
		t.Error("it didn't wait for the clock")
	}
	m.shutDown()
}

func (m *machine) state(name string) string { return filepath.Join(m.folder, "state", name) }

// install puts programs and the unit where the machine finds them.
func (m *machine) install() {
	bin := os.Getenv("CUPEL_BIN")
	if bin == "" {
		bin = "../../bin"
	}
	must(m.t, os.CopyFS(filepath.Join(m.folder, "bin"), os.DirFS(bin)))
	for _, name := range []string{"cupel", "cupeld", "cupel-cas", "cupel-init"} {
		must(m.t, os.Chmod(filepath.Join(m.folder, "bin", name), 0o755))
	}
	cmd := exec.Command(filepath.Join(m.folder, "bin", "cupel"), "install-service", "--print", "--state", m.state(""))
	unit, err := cmd.Output()
	must(m.t, err)
	must(m.t, os.WriteFile(filepath.Join(m.folder, "unit"), unit, 0o644))
	m.t.Logf("%s", unit)
}

func (m *machine) boot() {
	m.boots++
	m.booted = time.Now()
	m.cmd = exec.Command("bash", "testdata/boot.sh", m.folder, m.group, "cupel-test.service")
	m.cmd.Stdout, m.cmd.Stderr = &m.log, &m.log
	must(m.t, m.cmd.Start())
}

// serves waits until this boot's cupeld does.
func (m *machine) serves() {
	m.t.Helper()
	began := time.Now()
	for time.Since(began) < 3*time.Minute {
		info, err := os.Stat(m.state("manager.json"))
		if err == nil && info.ModTime().After(m.booted) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.t.Fatalf("boot %d: nothing serves:\n%s", m.boots, m.log.String())
}

// first is the process number of the machine's systemd.
func (m *machine) first() int {
	m.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.cmd.Process.Pid, m.cmd.Process.Pid))
	must(m.t, err)
	var pid int
	_, err = fmt.Sscan(string(b), &pid)
	must(m.t, err)
	return pid
}

// powerCut ends everything at once.
func (m *machine) powerCut() {
	m.t.Helper()
	must(m.t, syscall.Kill(m.first(), syscall.SIGKILL))
	_ = m.cmd.Wait()
}

// shutDown is a power button: systemd's own signal for it.
func (m *machine) shutDown() {
	m.t.Helper()
	const powerOff = syscall.Signal(34 + 4) // SIGRTMIN+4, systemd(1)
	must(m.t, syscall.Kill(m.first(), powerOff))
	ended := make(chan struct{})
	go func() { _ = m.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(3 * time.Minute):
		m.powerCut()
		m.t.Fatalf("it doesn't go down:\n%s", m.log.String())
	}
}

func (m *machine) remove() {
	if m.cmd != nil && m.cmd.ProcessState == nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	}
	for range 100 { // until the last process is gone
		left := false
		trees, _ := filepath.Glob("/sys/fs/cgroup/*/" + m.group)
		for _, tree := range trees {
			var dirs []string
			_ = filepath.WalkDir(tree, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				left = unix.Rmdir(dirs[i]) != nil || left
			}
		}
		if !left {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if m.t.Failed() {
		m.t.Log(strings.TrimSpace(m.log.String()))
	}
	if err := os.RemoveAll(m.folder); err != nil {
		m.t.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
