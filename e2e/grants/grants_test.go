//go:build e2e

// Package grants holds the promise that nobody runs what was not granted: not a
// stranger who knows a name, not more copies than were asked for, and never two
// writers of one volume; and that what was granted goes on without its owner.
package grants

import (
	"fmt"
	"net"
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

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/e2e/harness"
)

const (
	session = "ledger"
	// starts has the app count its starts in a volume, and answer with the number.
	starts = `def main():
    global GREETING
    with open("/data/starts", "a") as f:
        print("start", file=f)
    with open("/data/starts") as f:
        GREETING = "start %d" % len(f.readlines())
`
)

func TestGrants(t *testing.T) {
	w := harness.New(t, harness.Config{})
	owner, stranger := w.Owner("owner"), w.Owner("stranger")
	port := harness.FreePort(t)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	files := harness.ExampleApp(w)
	files["client-app.py"] = w.Patch(files["client-app.py"], "def main():\n", starts)
	w.Git.Push("app", files)
	w.BuildRuntimes("puller", "python")
	owner.Vouch("puller", "python")
	owner.AttestCAS()
	stranger.AttestCAS()
	owner.UploadWriter(session, "app")
	deploy := []string{"deploy", session, "--runtime", "python", "--memory", "256M", "--port", strconv.Itoa(int(port))}

	t.Run("a stranger who knows the name", func(t *testing.T) {
		if r := stranger.Run(deploy...); r.Code == 0 {
			t.Errorf("it deploys: %s", r)
		}
		if r := stranger.Run("session", "submit", session); r.Code == 0 || strings.Contains(r.Stdout, "cupel1.") {
			t.Errorf("it has a code: %s", r)
		}
		if ids := owner.CASInstances(session); len(ids) != 0 {
			t.Errorf("something was released: %+v", ids)
		}
	})
	t.Run("two instances of a service that writes", func(t *testing.T) {
		r := owner.MustRefuse("writes_volume", append(deploy, "--instances", "2")...)
		if !strings.Contains(r.Stderr, "update_policy: ephemeral") || strings.Contains(owner.MustRun("session", "grants", session), " claimed ") {
			t.Errorf("%s", r)
		}
	})

	t.Log(owner.MustRun(deploy...))
	client := owner.AppClient(session)
	expect := func(want string) {
		t.Helper()
		w.Eventually(30*time.Second, func() error {
			a, err := client.Get(netip.Addr{}, at)
			if err != nil {
				return err
			}
			if a.Message != want {
				return fmt.Errorf("the app answers %+v; want %q", a, want)
			}
			return nil
		})
	}
	expect("start 1")

	t.Run("an update stops the writer first", func(t *testing.T) {
		out := owner.MustRun("deploy", session, "--runtime", "python")
		if !strings.Contains(out, "stop the old instance first") || !strings.Contains(out, "nothing served for") {
			t.Errorf("%s", out)
		}
		expect("start 2") // what the old one wrote was stored
		oneGrant(t, owner)
	})

	t.Run("kill -9 costs the replacement no lapse", func(t *testing.T) {
		before := runningID(owner)
		killLauncher(t, w)
		w.Eventually(60*time.Second, func() error { return owner.ExpectHealthy(session, 1) })
		expect("start 2") // again: the killed one stored nothing
		for _, i := range owner.CASInstances(session) {
			if i.ID.String() == before && i.State != owners.Gone {
				t.Errorf("the killed instance is %s, want %s: it was waited for until it lapsed", i.State, owners.Gone)
			}
		}
		oneGrant(t, owner)
	})

	t.Run("down and up with the owner away", func(t *testing.T) {
		away := owner.Dir + ".away"
		if err := os.Rename(owner.Dir, away); err != nil {
			t.Fatal(err)
		}
		w.Operator.MustRun("down")
		w.Up(nil, nil)
		if err := os.Rename(away, owner.Dir); err != nil {
			t.Fatal(err)
		}
		w.Eventually(60*time.Second, func() error { return owner.ExpectHealthy(session, 1) })
		expect("start 3")
		oneGrant(t, owner)
	})

	for i, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run("down without cupeld: "+signal.String(), func(t *testing.T) {
			cas := w.Info().CAS.Instances
			w.Kill("cupeld", signal)
			// Where the CAS can't be had, nothing is stopped.
			var taken net.Listener
			w.Eventually(20*time.Second, func() (err error) { taken, err = net.Listen("tcp", cas); return err })
			w.Operator.MustRefuse("down_unsafe", "down")
			if err := taken.Close(); err != nil {
				t.Fatal(err)
			}
			r := w.Operator.Run("down")
			if r.Code != 0 || strings.Contains(r.Stderr, "not stored") {
				t.Errorf("%s", r)
			}
			w.Up(nil, nil)
			expect(fmt.Sprintf("start %d", 4+i)) // what it wrote before was stored
			oneGrant(t, owner)
		})
	}

	t.Run("no token in sight", func(t *testing.T) {
		said := w.Operator.MustRun("events") + w.Operator.MustRun("ps", "-o", "json") + w.Operator.MustRun("info", "-o", "json")
		for _, p := range []string{"cupelgrant1.", "cupel1."} {
			if strings.Contains(said, p) {
				t.Errorf("the manager tells a %q", p)
			}
		}
		if out, err := exec.Command("grep", "-rl", "cupelgrant1.", filepath.Join(w.State, "log")).Output(); err == nil {
			t.Errorf("a log has a token: %s", out)
		}
	})

	t.Run("withdrawn", func(t *testing.T) {
		out := owner.MustRun("session", "grants", session)
		owner.MustRun("session", "grants", session, "--withdraw", strings.Fields(claimed(out)[0])[0])
		w.Eventually(90*time.Second, func() error { return owner.ExpectHealthy(session, 0) })
		w.Eventually(30*time.Second, func() error {
			if out := owner.MustRun("ps", session); !strings.Contains(out, "grant_ended") || !strings.Contains(out, "cupel deploy "+session) {
				return fmt.Errorf("ps says:\n%s", out)
			}
			return nil
		})
	})
}

// claimed are the lines of the grants that somebody holds.
func claimed(table string) []string {
	return slices.DeleteFunc(strings.Split(table, "\n"), func(l string) bool { return !strings.Contains(l, " claimed ") })
}

// oneGrant fails the test unless one grant is left, with everything in use.
func oneGrant(t *testing.T, owner *harness.Party) {
	t.Helper()
	held := claimed(owner.MustRun("session", "grants", session))
	if len(held) != 1 || !strings.Contains(held[0], "client-app 1 of 1, pull_repo ran 1 of 1") {
		t.Errorf("grants: %q", held)
	}
}

// runningID is the app's instance as the CAS knows it.
func runningID(owner *harness.Party) string {
	for _, i := range owner.CASInstances(session) {
		if i.Service == "client-app" && i.State == owners.Running {
			return i.ID.String()
		}
	}
	return ""
}

// killLauncher kills the launchers of the installation's instances.
func killLauncher(t *testing.T, w *harness.World) {
	t.Helper()
	procs, err := filepath.Glob("/sys/fs/cgroup/*/cupel-" + w.ID() + "/*/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	more, _ := filepath.Glob("/sys/fs/cgroup/cupel-" + w.ID() + "/*/cgroup.procs")
	killed := 0
	for _, file := range append(procs, more...) {
		b, _ := os.ReadFile(file)
		for _, line := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(line); err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
	}
	if killed == 0 {
		t.Fatal("no instance's process was found")
	}
}
