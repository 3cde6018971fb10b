//go:build e2e

// Package lifecycle holds the promise that restarting daemons never restarts an
// app, and that stopping leaves what an operator wants and nothing else.
package lifecycle

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/e2e/harness"
)

const session = "steady"

// counter makes the app count on its standard output.
const counter = `def count():
    number = 0
    while True:
        print("tick", number, flush=True)
        number += 1
        time.sleep(0.05)


def main():
    threading.Thread(target=count, daemon=True).start()
`

func TestDaemonsKilled(t *testing.T) {
	w := harness.New(t, harness.Config{})
	owner := w.Owner("owner")
	port := harness.FreePort(t)
	files := harness.ExampleApp(w)
	files["client-app.py"] = w.Patch(files["client-app.py"], "def main():\n", counter)
	files["client-app.py"] = w.Patch(files["client-app.py"], "import threading\n", "import threading\nimport time\n")
	w.Git.Push("app", files)
	w.BuildRuntimes("puller", "python")
	owner.VouchAsBefore("puller", "python")
	owner.AttestCAS()
	owner.CreateSession(session, "app")
	owner.Deploy(session, 2, port)

	apps, instances := w.AppProcesses(), owner.Healthy(session)
	if len(apps) != 2 {
		t.Fatalf("processes of the app: %v, want 2", apps)
	}
	client := owner.AppClient(session)
	local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	for _, daemon := range []string{"cupeld", "cupel-cas", "containerd", "cupeld"} {
		t.Run("kill "+daemon, func(t *testing.T) {
			w.Kill(daemon, syscall.SIGKILL)
			time.Sleep(time.Second) // some ticks that nobody is there to see
			w.Up(nil, nil)
			w.Eventually(60*time.Second, func() error { return owner.ExpectHealthy(session, 2) })
			if got := w.AppProcesses(); !slices.Equal(got, apps) {
				t.Errorf("processes of the app: %v, were %v", got, apps)
			}
			if got := owner.Healthy(session); !slices.Equal(got, instances) {
				t.Errorf("instances: %v, were %v", got, instances)
			}
			if a, err := client.Get(netip.Addr{}, local); err != nil || a.Message == "" {
				t.Errorf("the app answers %+v, %v", a, err)
			}
		})
	}
	t.Run("logs have no hole", func(t *testing.T) {
		for _, id := range instances {
			if n, err := gapless(owner, id); err != nil || n < 40 {
				t.Errorf("instance %s: %d ticks, %v", id, n, err)
			}
		}
	})
	t.Run("kill the log writers", func(t *testing.T) {
		for _, id := range instances {
			killLogWriter(t, w, id)
			before := ticks(owner, id)
			w.Eventually(30*time.Second, func() error {
				if n := ticks(owner, id); n < before+20 {
					return fmt.Errorf("instance %s: %d ticks in the log, %d before its writer died", id, n, before)
				}
				return nil
			})
		}
		if got := w.AppProcesses(); !slices.Equal(got, apps) {
			t.Errorf("processes of the app: %v, were %v", got, apps)
		}
	})
	t.Run("the log of the CAS verifies", func(t *testing.T) { owner.MustRun("audit", "verify") })
	t.Run("down and up again", func(t *testing.T) {
		w.Operator.MustRun("down")
		if got := w.AppProcesses(); len(got) != 0 {
			t.Errorf("after 'cupel down' run: %v", got)
		}
		w.Up(nil, nil)
		w.Eventually(60*time.Second, func() error { return owner.ExpectHealthy(session, 2) })
		if _, err := client.Get(netip.Addr{}, local); err != nil {
			t.Error(err)
		}
	})
}

// TestUnreachableState: the CAS is another user and has to get to its folder.
func TestUnreachableState(t *testing.T) {
	w := harness.New(t, harness.Config{NoUp: true})
	closed := filepath.Join(w.Dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	r := w.Operator.Run("up", "--detach", "--state", filepath.Join(closed, "state"))
	if r.Code <= 0 || r.Code == 8 || !strings.Contains(r.Stderr, closed) {
		t.Errorf("want a refusal that names the folder: %s", r)
	}
	t.Log(r.Stderr)
}

// killLogWriter kills the process that writes an instance's log.
func killLogWriter(t *testing.T, w *harness.World, instance string) {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		args := strings.Split(string(cmdline), "\x00")
		if len(args) < 3 || filepath.Base(args[0]) != "cupel-log" || !strings.Contains(args[2], w.State) || !strings.HasPrefix(filepath.Base(args[2]), instance+"-") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("instance %s has no log writer", instance)
}

// ticks is how many of the app's ticks are in an instance's log.
func ticks(owner *harness.Party, instance string) int {
	return strings.Count(owner.MustRun("logs", instance), "tick ")
}

// gapless checks that an instance's log counts from 0 without a gap, and
// returns how far.
func gapless(owner *harness.Party, instance string) (n int, err error) {
	for line := range strings.Lines(owner.MustRun("logs", instance, "-o", "json")) {
		var l manager.LogLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			return n, err
		}
		text, ok := strings.CutPrefix(l.Line, "tick ")
		if !ok {
			continue
		}
		if got, err := strconv.Atoi(text); err != nil || got != n {
			return n, fmt.Errorf("%q where tick %d should be", l.Line, n)
		}
		n++
	}
	return n, nil
}
