//go:build e2e

package boot

import (
	"bytes"
	"fmt"
	"net/netip"
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

	"cupel.dev/cupel/e2e/harness"
	"cupel.dev/cupel/internal/testing/netlab"
)

// machine is one that boots again and again from the same disk: the folder of a world.
type machine struct {
	*harness.World
	whole  testing.TB // the test of all boots
	group  string
	boots  int
	booted time.Time
	cmd    *exec.Cmd
	log    bytes.Buffer
	net    *netlab.Space // of this boot
	beside *netlab.Space // another machine with a link to it; nil: none yet
}

func newMachine(t *testing.T, w *harness.World) *machine {
	t.Helper()
	m := &machine{World: w, whole: t, group: fmt.Sprintf("cupel-boot-%d", os.Getpid())}
	t.Cleanup(m.remove)
	return m
}

// boot starts the machine.
func (m *machine) boot() {
	m.T.Helper()
	m.boots++
	m.booted = time.Now()
	m.cmd = exec.Command("bash", "testdata/boot.sh", m.Dir, m.group)
	m.cmd.Stdout, m.cmd.Stderr = &m.log, &m.log
	must(m.T, m.cmd.Start())
	m.Eventually(time.Minute, func() error {
		out, _ := m.try("systemctl", "is-system-running")
		if !slices.Contains([]string{"starting", "running", "degraded"}, strings.TrimSpace(out)) {
			return fmt.Errorf("no systemd: %s", out)
		}
		return nil
	})
	m.net, m.beside = netlab.Of(m.whole, m.first()), nil
}

// serves waits until this boot's cupeld does.
func (m *machine) serves() {
	m.T.Helper()
	m.Eventually(3*time.Minute, func() error {
		info, err := os.Stat(filepath.Join(m.State, "manager.json"))
		if err == nil && info.ModTime().Before(m.booted) {
			err = fmt.Errorf("boot %d: nothing serves yet", m.boots)
		}
		return err
	})
}

// run runs a command inside, and returns its output.
func (m *machine) run(args ...string) string {
	m.T.Helper()
	began := time.Now()
	out, code := m.try(args...)
	if code != 0 {
		m.T.Fatalf("%s: exit %d: %s", strings.Join(args, " "), code, out)
	}
	m.T.Logf("%s (%s)\n%s", strings.Join(args, " "), time.Since(began).Round(10*time.Millisecond), out)
	return out
}

// try is run of what may fail.
func (m *machine) try(args ...string) (out string, code int) {
	first, err := m.findFirst()
	if err != nil {
		return err.Error(), -1
	}
	cmd := exec.Command("nsenter", append([]string{
		"--target", strconv.Itoa(first), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--",
		"env", "-i", "-C", "/", "PATH=" + m.Bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "CUPEL_STATE=" + m.State,
	}, args...)...)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// first is the process number of the machine's systemd.
func (m *machine) first() int {
	m.T.Helper()
	pid, err := m.findFirst()
	must(m.T, err)
	return pid
}

func (m *machine) findFirst() (pid int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.cmd.Process.Pid, m.cmd.Process.Pid))
	if err == nil {
		_, err = fmt.Sscan(string(b), &pid)
	}
	return pid, err
}

// powerCut ends everything at once.
func (m *machine) powerCut() {
	m.T.Helper()
	must(m.T, syscall.Kill(m.first(), syscall.SIGKILL))
	_ = m.cmd.Wait()
}

// shutDown is a power button: systemd's own signal for it.
func (m *machine) shutDown() {
	m.T.Helper()
	began := time.Now()
	const powerOff = syscall.Signal(34 + 4) // SIGRTMIN+4, systemd(1)
	must(m.T, syscall.Kill(m.first(), powerOff))
	ended := make(chan struct{})
	go func() { _ = m.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
		m.T.Logf("went down in %s", time.Since(began).Round(10*time.Millisecond))
	case <-time.After(3 * time.Minute):
		m.powerCut()
		m.T.Fatalf("it doesn't go down:\n%s", m.log.String())
	}
}

// The two ends of the link between the machine and the one beside it.
var ours, theirs = netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")

// neighbour is another machine, with a link to this boot of ours.
func (m *machine) neighbour() *netlab.Space {
	m.T.Helper()
	if m.beside != nil {
		return m.beside
	}
	m.beside = netlab.New(m.whole)
	first := m.first()
	var err error
	m.beside.Do(func() {
		err = netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "eth0", NetNsID: -1}, PeerName: "outside", PeerNamespace: netlink.NsPid(first),
		})
		if err == nil {
			err = raise("eth0", theirs)
		}
	})
	must(m.T, err)
	m.net.Do(func() { err = raise("outside", ours) })
	must(m.T, err)
	return m.beside
}

func raise(name string, address netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlab.AddAddress(link, netip.PrefixFrom(address, 24)); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// remove ends the machine and what is left of its control groups.
func (m *machine) remove() {
	if m.cmd != nil && m.cmd.ProcessState == nil {
		if first, err := m.findFirst(); err == nil {
			_ = syscall.Kill(first, syscall.SIGKILL)
		}
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
	if m.T.Failed() {
		m.T.Log(strings.TrimSpace(m.log.String()))
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
