//go:build e2e

// Package node holds the promises about single instances: one that takes too
// much memory, crashes again and again, or stops answering costs its app
// nothing but itself; and what it prints is there to read.
package node

import (
	"encoding/json"
	"errors"
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

const (
	session = "unruly"
	clients = 12
	// chatLines of chatBytes are more than two files of a log.
	chatLines = 20000
	chatBytes = 1000
)

// misbehave makes the app do what its path says.
const misbehave = `DEAF = threading.Event()
server = None


def chat():
    time.sleep(0.5)  # until the request is logged: lines of two threads mix
    for number in range(%d):
        sys.stdout.write("said %%d %%s\n" %% (number, "x" * %d))
    sys.stdout.flush()


def misbehave(path):
    if path == "/eat":
        hoard = []
        while True:
            hoard.append(b"x" * (4 << 20))
    elif path == "/die":
        os._exit(3)
    elif path == "/deaf":
        DEAF.set()
        threading.Thread(target=server.shutdown).start()
    elif path == "/chat":
        threading.Thread(target=chat).start()


def secret():`

// listen serves, and after it was told to be deaf for a while, serves again.
const listen = `    while True:
        server.serve_forever()
        if not DEAF.is_set():
            break
        server.server_close()
        time.sleep(12)
        DEAF.clear()
        server = Server(("0.0.0.0", PORT), Handler)
`

func unrulyApp(w *harness.World) string {
	app := harness.ExampleApp(w)["client-app.py"]
	for _, change := range [][2]string{
		{"import threading\n", "import threading\nimport time\n"},
		{"def secret():", fmt.Sprintf(misbehave, chatLines, chatBytes)},
		{"        if self.path != \"/\":\n            self.send_error(404)\n            return\n", "        misbehave(self.path)\n"},
		{"def main():\n", "def main():\n    global server\n"},
		{"    server.serve_forever()\n", listen},
	} {
		app = w.Patch(app, change[0], change[1])
	}
	return app
}

// app is the deployed app, seen by its users and its owner.
type app struct {
	*testing.T
	w      *harness.World
	owner  *harness.Party
	client *harness.Client
	at     netip.AddrPort
	used   int // client addresses
}

func TestUnrulyInstances(t *testing.T) {
	w := harness.New(t, harness.Config{})
	a := &app{T: t, w: w, owner: w.Owner("owner"), at: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), harness.FreePort(t))}
	w.Git.Push("app", map[string]string{"client-app.py": unrulyApp(w)})
	w.BuildRuntimes("puller", "python")
	a.owner.VouchAsBefore("puller", "python")
	a.owner.AttestCAS()
	a.owner.CreateSession(session, "app")
	a.owner.Deploy(session, 2, a.at.Port())
	a.client = a.owner.AppClient(session)

	for _, c := range []struct {
		name string
		test func(*app)
	}{
		{"memory is shown", testMemoryShown},
		{"out of memory", testOutOfMemory},
		{"crashes back off", testCrashes},
		{"deaf for a while", testDeaf},
		{"logs over a rotation", testLogs},
		{"cupeld killed while instances start", testKilledWhileStarting},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			sub := *a
			sub.T = t
			c.test(&sub)
			a.used = sub.used
		}) {
			return // what follows needs instances that are well
		}
	}
}

func testMemoryShown(a *app) {
	a.w.Eventually(20*time.Second, func() error {
		for _, i := range a.owner.Instances(session) {
			if i.MemoryUsed < 1<<20 || i.MemoryUsed > i.Memory || i.Memory != 256<<20 {
				return fmt.Errorf("instance %s uses %d of %d bytes", i.ID, i.MemoryUsed, i.Memory)
			}
		}
		return nil
	})
	if table := a.owner.MustRun("ps", session); strings.Count(table, "/256M") != 2 {
		a.Errorf("the table shows no memory:\n%s", table)
	}
}

func testOutOfMemory(a *app) {
	before := a.ask(a.newClients(clients))
	from, victim := a.clientOf("", before)
	if _, err := a.client.GetPath(from, a.at, "/eat"); err == nil {
		a.Fatal("the app ate all memory and answered")
	}
	a.w.Eventually(20*time.Second, func() error {
		i := a.instance(victim)
		if i.Restarts != 1 || i.Problem == nil || i.Problem.Rule != "out_of_memory" {
			return fmt.Errorf("instance %s does not tell of its end: %+v", victim, i)
		}
		return nil
	})
	a.moved(before, victim)
	a.healthyAgain(2)
	var reasons []string
	for _, e := range a.events() {
		if e.Instance == victim && e.Warning {
			reasons = append(reasons, e.Reason)
			a.Logf("%s: %s", e.Reason, e.Message)
		}
	}
	if want := []string{"instance_out_of_memory", "instance_restarting"}; !slices.Equal(reasons, want) {
		a.Errorf("events %v, want %v", reasons, want)
	}
}

func testCrashes(a *app) {
	_, victim := a.clientOf("", a.ask(a.newClients(clients)))
	seen := len(a.pauses(victim))
	for n := range 3 {
		from, _ := a.clientOf(victim, a.ask(a.newClients(clients)))
		restarts := a.instance(victim).Restarts
		_, _ = a.client.GetPath(from, a.at, "/die")
		a.w.Eventually(30*time.Second, func() error {
			if i := a.instance(victim); i.Restarts != restarts+1 {
				return fmt.Errorf("crash %d: %d restarts", n, i.Restarts)
			}
			return nil
		})
		a.healthyAgain(2)
	}
	pauses := a.pauses(victim)[seen:]
	for n := 1; n < len(pauses); n++ {
		if pauses[n] <= pauses[n-1] {
			a.Errorf("pauses between crashes: %v, want longer and longer ones", pauses)
		}
	}
	if len(pauses) != 3 {
		a.Errorf("pauses %v, want three", pauses)
	}
	if i := a.instance(victim); i.Problem == nil || i.Problem.Rule != "exited" || !strings.Contains(i.Problem.Actual, "code 3") {
		a.Errorf("why it crashed last: %v", i.Problem)
	}
}

func testDeaf(a *app) {
	before := a.ask(a.newClients(clients))
	from, victim := a.clientOf("", before)
	restarts := a.instance(victim).Restarts
	if _, err := a.client.GetPath(from, a.at, "/deaf"); err != nil {
		a.Fatal(err)
	}
	a.w.Eventually(20*time.Second, func() error {
		if i := a.instance(victim); i.Health != "unhealthy" {
			return fmt.Errorf("instance %s is %s", victim, i.Health)
		}
		return nil
	})
	a.moved(before, victim)
	a.healthyAgain(2)
	if i := a.instance(victim); i.Restarts != restarts {
		a.Errorf("restarted %d times for being deaf", i.Restarts-restarts)
	}
	a.clientOf(victim, a.ask(a.newClients(clients))) // it has clients again
}

// testLogs follows an instance that prints more than a file of its log holds.
func testLogs(a *app) {
	from, id := a.clientOf("", a.ask(a.newClients(clients)))
	next, end := 0, time.AfterFunc(2*time.Minute, func() {})
	defer end.Stop()
	r := a.owner.Watch([]string{"logs", "-f", id}, func(pid int, line string) {
		if line == "" {
			end.Stop()
			end = time.AfterFunc(2*time.Minute, func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
			if _, err := a.client.GetPath(from, a.at, "/chat"); err != nil {
				a.Error(err)
			}
			return
		}
		_, text, ok := strings.Cut(line, "said ")
		if !ok {
			return
		}
		number, _, _ := strings.Cut(text, " ")
		if got, err := strconv.Atoi(number); err != nil || got != next {
			if next >= 0 {
				a.Errorf("line %q where %d should be", number, next)
			}
			next = -1
			_ = syscall.Kill(pid, syscall.SIGKILL)
			return
		}
		if next++; next == chatLines {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	})
	if next != chatLines {
		a.Errorf("followed %d of %d lines: exit code %d, %.1000s", next, chatLines, r.Code, r.Stderr)
	}
	files, _ := filepath.Glob(filepath.Join(a.w.State, "node", "logs", id+"*", "*.jsonl"))
	if len(files) < 3 {
		a.Errorf("%d bytes of output are in %v", chatLines*chatBytes, files)
	}
}

// testKilledWhileStarting kills cupeld at the moment when the first app of an
// update runs: whatever the launchers could not tell, the next cupeld learns.
func testKilledWhileStarting(a *app) {
	before := running(a.w)
	done := make(chan harness.Result, 1)
	go func() { done <- a.owner.Run("deploy", session) }()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if fresh := slices.DeleteFunc(running(a.w), func(pid int) bool { return slices.Contains(before, pid) }); len(fresh) > 0 {
			break
		}
		if time.Now().After(end) {
			a.Fatal("the update starts nothing")
		}
	}
	a.w.Kill("cupeld", syscall.SIGKILL)
	a.w.Up(nil, nil)
	a.Logf("the command that was waiting says: %s", <-done)
	a.w.Eventually(60*time.Second, func() error {
		list := a.owner.Instances(session)
		var bad []error
		for _, i := range list {
			if i.Role == "app" && (i.Revision != 2 || i.Health != "healthy" || i.InstanceID.IsZero() || !i.Attested) {
				bad = append(bad, fmt.Errorf("instance %s of revision %d: %s, %s, id %s", i.ID, i.Revision, i.State, i.Health, i.InstanceID.Short()))
			}
		}
		if len(a.owner.Healthy(session)) != 2 {
			bad = append(bad, errors.New("not two healthy instances"))
		}
		return errors.Join(bad...)
	})
	a.owner.MustRun("verify", session)
}

// newClients returns addresses of clients that nobody has seen.
func (a *app) newClients(n int) []netip.Addr {
	var list []netip.Addr
	for range n {
		a.used++
		list = append(list, netip.AddrFrom4([4]byte{127, 1, byte(a.used >> 8), byte(a.used)}))
	}
	return list
}

// ask returns which instance answers each client.
func (a *app) ask(list []netip.Addr) map[netip.Addr]string {
	a.Helper()
	out := map[netip.Addr]string{}
	for _, from := range list {
		answer, err := a.client.Get(from, a.at)
		if err != nil {
			a.Fatalf("from %s: %v", from, err)
		}
		out[from] = a.named(answer.Instance)
	}
	return out
}

// named returns the instance that calls itself by that host name, which has the
// app's name before and the number of its restarts after.
func (a *app) named(host string) string {
	a.Helper()
	for _, i := range a.owner.Instances(session) {
		if strings.Contains(host, i.ID) {
			return i.ID
		}
	}
	a.Fatalf("no instance is called %q", host)
	return ""
}

// clientOf returns a client of an instance; empty: of any.
func (a *app) clientOf(instance string, served map[netip.Addr]string) (netip.Addr, string) {
	a.Helper()
	for from, by := range served {
		if instance == "" || by == instance {
			return from, by
		}
	}
	a.Fatalf("instance %s serves none of %v", instance, served)
	return netip.Addr{}, ""
}

// moved checks that clients of the victim come to be served by another
// instance, and that all others are answered by theirs all the time.
func (a *app) moved(before map[netip.Addr]string, victim string) {
	a.Helper()
	for from, by := range before {
		if by != victim {
			if now := a.ask([]netip.Addr{from})[from]; now != by {
				a.Errorf("%s was with %s and is with %s, after %s failed", from, by, now, victim)
			}
			continue
		}
		a.w.Eventually(5*time.Second, func() error {
			answer, err := a.client.Get(from, a.at)
			if err == nil && strings.Contains(answer.Instance, victim) && a.instance(victim).Health != "healthy" {
				err = fmt.Errorf("%s is served by %s, which failed", from, victim)
			}
			return err
		})
	}
}

func (a *app) instance(id string) manager.Instance {
	a.Helper()
	list := a.owner.Instances(session)
	n := slices.IndexFunc(list, func(i manager.Instance) bool { return i.ID == id })
	if n < 0 {
		a.Fatalf("no instance %s", id)
	}
	return list[n]
}

func (a *app) healthyAgain(n int) {
	a.Helper()
	a.w.Eventually(60*time.Second, func() error { return a.owner.ExpectHealthy(session, n) })
}

func (a *app) events() []manager.Event {
	a.Helper()
	var list []manager.Event
	for line := range strings.Lines(a.owner.MustRun("events", session, "-o", "json")) {
		var e manager.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			a.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// pauses returns how long the manager waited before each restart.
func (a *app) pauses(instance string) []time.Duration {
	a.Helper()
	var list []time.Duration
	for _, e := range a.events() {
		if e.Instance != instance || e.Reason != "instance_restarting" {
			continue
		}
		_, text, _ := strings.Cut(e.Message, "starting it again in ")
		var seconds int
		var unit string
		if _, err := fmt.Sscanf(text, "%d %s", &seconds, &unit); err != nil || !strings.HasPrefix(unit, "second") {
			a.Fatalf("event %q: %v", e.Message, err)
		}
		list = append(list, time.Duration(seconds)*time.Second)
	}
	return list
}

// running lists the app's processes in the installation's instances.
func running(w *harness.World) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if !strings.HasPrefix(string(cmdline), "python3\x00") {
			continue
		}
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if strings.Contains(string(cgroup), w.ID()) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}
