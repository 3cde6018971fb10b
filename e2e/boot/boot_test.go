//go:build e2e

// Package boot holds the promise that an installation comes up with its machine, by
// the unit of `cupel install-service`, and its apps with it: after a shutdown, after a
// power cut, and with a clock that isn't set yet; and that a restart of the unit is none
// of the apps. A real systemd is process 1 of namespaces of its own.
package boot

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/e2e/harness"
	"cupel.dev/cupel/internal/testing/need"
)

const (
	// steady has two instances; ledger's one writes a volume.
	steady, ledger = "steady", "ledger"

	// starts has the app count its starts in a volume, where it has one, and answer
	// with the number.
	starts = `def main():
    global GREETING
    if os.path.isdir("/data"):
        with open("/data/starts", "a") as f:
            print("start", file=f)
        with open("/data/starts") as f:
            GREETING = "start %d" % len(f.readlines())
`
)

// scene is a machine and an installation with two apps on it. Their owner is away:
// neither they nor their git server can be reached from the machine.
type scene struct {
	*machine
	owner                  *harness.Party
	user                   *harness.Client
	steadyPort, ledgerPort uint16
	unit                   string
	started                int // how often ledger was, as far as it was stored
}

func TestBoot(t *testing.T) {
	need.Root(t)
	need.File(t, "/lib/systemd/systemd")
	need.Programs(t, "unshare", "nsenter", "pivot_root", "containerd", "runc")
	t.Setenv("TMPDIR", "/var/tmp") // a machine empties /tmp when it boots
	s := newScene(t)
	for _, part := range []struct {
		name string
		test func()
	}{
		{"install the service", s.installed},
		{"restart the service", s.restarted},
		{"kill cupeld", s.killed},
		{"a unit of an earlier release", s.renewed},
		{"shutdown", s.shutdown},
		{"the network comes late", s.lateNetwork},
		{"power cut", s.power},
		{"down, and uninstall the service", s.uninstalled},
	} {
		began := time.Now()
		if !t.Run(part.name, func(t *testing.T) {
			whole := s.T
			s.T = t
			defer func() { s.T = whole }()
			part.test()
		}) {
			t.FailNow()
		}
		t.Logf("%s: %s", part.name, time.Since(began).Round(100*time.Millisecond))
	}
}

// newScene deploys both apps, and moves the installation into a machine that boots.
func newScene(t *testing.T) *scene {
	t.Helper()
	w := harness.New(t, harness.Config{})
	s := &scene{
		machine: newMachine(t, w), owner: w.Owner("owner"),
		steadyPort: harness.FreePort(t), ledgerPort: harness.FreePort(t),
		unit: "cupel-" + w.ID() + ".service",
	}
	files := harness.ExampleApp(w)
	files["client-app.py"] = w.Patch(files["client-app.py"], "def main():\n", starts)
	w.Git.Push("app", files)
	w.BuildRuntimes("puller", "python")
	s.owner.VouchAsBefore("puller", "python")
	s.owner.AttestCAS()
	s.owner.CreateSession(steady, "app")
	s.owner.Deploy(steady, 2, s.steadyPort)
	s.owner.UploadWriter(ledger, "app")
	s.owner.Deploy(ledger, 1, s.ledgerPort, "--runtime", "python")
	s.user = s.owner.AppClient(steady)
	w.Operator.MustRun("down")
	s.boot()
	return s
}

// expect waits until both apps are there again, and ledger has what it wrote before: it
// was started so often.
func (s *scene) expect(started int) {
	s.T.Helper()
	s.started = started
	s.serves()
	owner, began := s.owner.In(s.net), time.Now()
	s.Eventually(90*time.Second, func() error {
		return errors.Join(owner.ExpectHealthy(steady, 2), owner.ExpectHealthy(ledger, 1))
	})
	s.T.Logf("apps are healthy %s after cupeld serves, %s after the boot", time.Since(began).Round(10*time.Millisecond), time.Since(s.booted).Round(10*time.Millisecond))
	local := netip.MustParseAddr("127.0.0.1")
	s.Eventually(20*time.Second, func() error {
		a, err := owner.AppClient(ledger).In(s.net).Get(netip.Addr{}, netip.AddrPortFrom(local, s.ledgerPort))
		if want := fmt.Sprintf("start %d", started); err == nil && a.Message != want {
			err = fmt.Errorf("the app answers %q, want %q", a.Message, want)
		}
		return err
	})
	if a, err := s.user.In(s.net).Get(netip.Addr{}, netip.AddrPortFrom(local, s.steadyPort)); err != nil || a.Message == "" {
		s.T.Errorf("%s answers %+v, %v", steady, a, err)
	}
}

// install runs install-service inside, with these flags beside those of the listeners.
func (s *scene) install(flags ...string) string {
	s.T.Helper()
	return s.run(slices.Concat([]string{"cupel", "install-service"}, s.ListenFlags(), flags)...)
}

func (s *scene) unitFile() string { return filepath.Join("/etc/systemd/system", s.unit) }

// says fails the test unless a text has all those parts.
func (s *scene) says(text string, parts ...string) {
	s.T.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			s.T.Errorf("it doesn't say %q:\n%s", p, text)
		}
	}
}

// installed: the unit is written and enabled once, and what another run changes is told.
func (s *scene) installed() {
	args := slices.Concat([]string{"cupel", "install-service", "--print"}, s.ListenFlags())
	printed, code := s.try(args...)
	if code != 0 || !strings.HasPrefix(printed, "# Made by ") {
		s.T.Fatalf("exit %d: %s", code, printed)
	}
	if out, code := s.try("cat", s.unitFile()); code == 0 {
		s.T.Errorf("--print wrote it: %s", out)
	}
	out, code := s.try(append(slices.Clone(args[:2]), "--app-quota", "apps=-1")...)
	if code == 0 || !strings.Contains(out, "app_quota: ") {
		s.T.Errorf("exit %d: %s", code, out)
	}

	s.says(s.install("--drain", "5s"), s.unitFile()+" is written\n", "it is enabled: ", "systemctl start "+s.unit)
	s.says(s.install("--drain", "5s"), "is there with just these flags", "enabled, as before")
	s.says(s.install(), "is written anew", "- ExecStart=", "+ ExecStart=")
	if text := s.run("cat", s.unitFile()); text != printed {
		s.T.Errorf("--print showed\n%s", printed)
	}
	s.run("systemctl", "disable", s.unit)
	s.says(s.install(), "is there with just these flags", "it is enabled: ")

	s.run("systemctl", "start", s.unit)
	s.expect(2)
	if out := s.install(); strings.Contains(out, "systemctl") {
		s.T.Errorf("it serves as it is, and something is still to be done:\n%s", out)
	}
	s.says(s.install("--drain", "6s"), "systemctl restart "+s.unit)
	s.install()
}

// restarted: the apps' processes go on, and a connection from outside with its requests.
func (s *scene) restarted() {
	apps := s.AppProcesses()
	requests := s.keepAsking()
	s.run("systemctl", "restart", s.unit)
	s.goesOn(apps, requests)

	requests = s.keepAsking()
	s.run("systemctl", "stop", s.unit)
	if got := s.AppProcesses(); !slices.Equal(got, apps) {
		s.T.Errorf("processes of the apps after 'systemctl stop': %v, were %v", got, apps)
	}
	s.run("systemctl", "start", s.unit)
	s.goesOn(apps, requests)
}

// killed: systemd starts another cupeld, and the apps go on.
func (s *scene) killed() {
	apps := s.AppProcesses()
	requests := s.keepAsking()
	before := s.Info().PID
	s.Kill("cupeld", syscall.SIGKILL)
	s.Eventually(time.Minute, func() error {
		if s.Info().PID == before {
			return errors.New("no other cupeld serves")
		}
		return nil
	})
	s.goesOn(apps, requests)
}

func (s *scene) goesOn(apps []int, requests func() error) {
	s.T.Helper()
	s.expect(s.started)
	if got := s.AppProcesses(); !slices.Equal(got, apps) {
		s.T.Errorf("processes of the apps: %v, were %v", got, apps)
	}
	if err := requests(); err != nil {
		s.T.Errorf("over a connection that was open: %v", err)
	}
}

// renewed: a start of the unit mends one that an earlier release wrote, with its flags.
func (s *scene) renewed() {
	s.install("--drain", "5s")
	file := filepath.Join(s.Dir, "units", s.unit)
	now, err := os.ReadFile(file)
	must(s.T, err)
	at := bytes.Index(now, []byte("TimeoutStopSec="))
	before := slices.Concat(now[:at], []byte("TimeoutStopSec=2040\n"), now[at+bytes.IndexByte(now[at:], '\n')+1:])
	must(s.T, os.WriteFile(file, before, 0o644))
	s.run("systemctl", "daemon-reload")

	apps := s.AppProcesses()
	s.run("systemctl", "restart", s.unit)
	s.expect(2)
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, now) {
		s.T.Errorf("%v\n%s", err, got)
	}
	s.says(s.run("systemctl", "show", "--property=NeedDaemonReload", s.unit), "NeedDaemonReload=no")
	if got := s.AppProcesses(); !slices.Equal(got, apps) {
		s.T.Errorf("processes of the apps: %v, were %v", got, apps)
	}
}

// shutdown: what is written is stored, and there after the next boot.
func (s *scene) shutdown() {
	s.shutDown()
	if _, err := os.Stat(filepath.Join(s.State, "manager.json")); !errors.Is(err, os.ErrNotExist) {
		s.T.Errorf("cupeld was killed, not stopped in order: %v", err)
	}
	s.boot()
	s.expect(3)
}

// lateNetwork: apps that were started before the machine knew its name servers get them,
// and commands show the address by which it is reached.
func (s *scene) lateNetwork() {
	apps := s.AppProcesses()
	s.neighbour()
	s.net.Route(s.T, netip.MustParsePrefix("0.0.0.0/0"), theirs)
	s.Eventually(30*time.Second, func() error {
		b, err := os.ReadFile(filepath.Join(s.State, "manager.json"))
		if err == nil && !strings.Contains(string(b), `"outside": "`+ours.String()+`"`) {
			err = fmt.Errorf("manager.json: %s", b)
		}
		return err
	})
	s.run("sh", "-c", "rm -f /etc/resolv.conf; echo nameserver 192.0.2.53 > /etc/resolv.conf")
	s.Eventually(30*time.Second, func() error {
		for _, pid := range apps {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/resolv.conf", pid))
			if err == nil && string(b) != "nameserver 192.0.2.53\n" {
				err = fmt.Errorf("process %d has %q", pid, b)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	s.goesOn(apps, func() error { return nil })
}

// power: what was stored last is there after the next boot, whose clock is set late.
func (s *scene) power() {
	s.powerCut()
	said, keep := filepath.Join(s.Dir, "said"), filepath.Join(s.Dir, "units", s.unit+".d")
	must(s.T, os.MkdirAll(keep, 0o755))
	must(s.T, os.WriteFile(filepath.Join(keep, "said.conf"), []byte("[Service]\nStandardError=append:"+said+"\n"), 0o644))
	s.whileUnmounted(s.boot, func(disk string) {
		future := time.Now().Add(15 * time.Second)
		must(s.T, os.Chtimes(filepath.Join(disk, "ports.json"), future, future))
	})
	s.expect(3) // again: what ran at the cut stored nothing
	text, err := os.ReadFile(said)
	must(s.T, err)
	s.says(string(text), "waiting for the clock")
	must(s.T, os.RemoveAll(keep))
}

// whileUnmounted hides the state folder, as a disk that is mounted late, until the unit has
// tried to start and the disk was changed.
func (s *scene) whileUnmounted(boot func(), change func(disk string)) {
	s.T.Helper()
	disk := s.State + ".disk"
	must(s.T, os.Rename(s.State, disk))
	must(s.T, os.Mkdir(s.State, 0o755))
	boot()
	s.Eventually(30*time.Second, func() error {
		if out, _ := s.try("systemctl", "show", "--property=NRestarts", s.unit); strings.TrimSpace(out) == "NRestarts=0" {
			return fmt.Errorf("not tried: %s", out)
		}
		return nil
	})
	made, err := os.ReadDir(s.State)
	if err != nil || len(made) > 0 {
		s.T.Errorf("where no disk is mounted lies %v, %v", made, err)
	}
	change(disk)
	must(s.T, os.Remove(s.State))
	must(s.T, os.Rename(disk, s.State))
}

// uninstalled: after `cupel down` the unit stays down, and then it is no more.
func (s *scene) uninstalled() {
	s.run("cupel", "down")
	s.Eventually(20*time.Second, func() error {
		if out, _ := s.try("systemctl", "is-active", s.unit); strings.TrimSpace(out) != "inactive" {
			return fmt.Errorf("after 'cupel down' the unit is %s", out)
		}
		return nil
	})
	if got := s.AppProcesses(); len(got) != 0 {
		s.T.Errorf("after 'cupel down' run: %v", got)
	}
	s.says(s.run("cupel", "uninstall-service"), s.unit+" is removed")
	if out, code := s.try("systemctl", "start", s.unit); code == 0 {
		s.T.Errorf("it starts: %s", out)
	}
	if out, _ := s.try("ls", "/etc/systemd/system", "/etc/systemd/system/multi-user.target.wants"); strings.Contains(out, s.unit) {
		s.T.Errorf("left: %s", out)
	}
	s.says(s.run("cupel", "uninstall-service"), "there is no "+s.unit)
	s.shutDown()
}

// keepAsking has a user on another machine ask again and again over one connection. The
// function that it returns ends that, and says what went wrong.
func (s *scene) keepAsking() (end func() error) {
	s.T.Helper()
	get, hangUp, err := s.user.In(s.neighbour()).Connect(netip.AddrPortFrom(ours, s.steadyPort))
	must(s.T, err)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		defer hangUp()
		for {
			if err := get(); err != nil {
				done <- err
				return
			}
			select {
			case <-stop:
				done <- nil
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() error { close(stop); return <-done }
}
