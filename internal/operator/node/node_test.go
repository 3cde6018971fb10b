package node

import (
	"context"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/secret"
	"cupel.dev/cupel/internal/trusted/wire"
)

func TestHealthJudge(t *testing.T) {
	const u, h, x = manager.HealthUnknown, manager.HealthHealthy, manager.HealthUnhealthy
	for _, c := range []struct {
		name   string
		checks string // + answered, - did not, one a second from the start on
		want   []manager.Health
	}{
		{"at once", "+", []manager.Health{h}},
		{"slow start", "---+", []manager.Health{u, u, u, h}},
		{"never", strings.Repeat("-", 12), []manager.Health{u, u, u, u, u, u, u, u, u, u, x, x}},
		{"a hiccup", "+--+", []manager.Health{h, h, h, h}},
		{"ill and well again", "+---+", []manager.Health{h, h, h, x, h}},
	} {
		var j healthJudge
		var got []manager.Health
		for i, ok := range c.checks {
			got = append(got, j.judge(ok == '+', time.Duration(i)*time.Second))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestFilterResolvers(t *testing.T) {
	got, n := filterResolvers([]byte("# c\nnameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 10.0.0.1\n" +
		"search  a b\noptions edns0\nsortlist x\nnameserver nonsense\nnameserver\n"))
	if want := "nameserver 10.0.0.1\nsearch a b\noptions edns0\n"; string(got) != want || n != 1 {
		t.Errorf("%q, %d", got, n)
	}
}

func TestEtc(t *testing.T) {
	dir := t.TempDir()
	defer syscall.Umask(syscall.Umask(0o077)) // of whoever started us
	if err := writeEtc(dir, "app-i-1", netip.MustParseAddr("10.88.1.2"), netip.MustParseAddr("10.88.1.1")); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "hosts"))
	if err != nil || !strings.Contains(string(b), "10.88.1.2 app-i-1\n10.88.1.1 host.cupel.internal\n") {
		t.Errorf("%q, %v", b, err)
	}
	for _, name := range []string{"hosts", "resolv.conf"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: %v, %v: the app's user can't read it", name, info, err)
		}
	}
}

func TestHostname(t *testing.T) {
	for name, want := range map[string]string{
		"": "i-1", "App": "app-i-1", "a/b.c": "a-b-c-i-1", strings.Repeat("x", 60): strings.Repeat("x", 20) + "-i-1",
		"ä": "--i-1",
	} {
		want = strings.Trim(want, "-")
		if got := hostname(manager.InstanceSpec{ID: "i-1", AppName: name}); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestJournal(t *testing.T) {
	j := journal{t.TempDir()}
	r := &record{Spec: manager.InstanceSpec{
		ID: "i-1", Config: ident.ServiceRef{Session: "s", Service: "x"}, Memory: 1, Labels: map[string]string{"a": "b"},
		Profile: launch.V2, Grant: secret.NewString("t0ken"),
	}, CreatedAt: time.Unix(1, 0).UTC(), Report: wire.Status{Phase: wire.Running}, Exit: &exit{Code: 1}}
	if err := j.save(r, true); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(j.dir, ".i-2.json.tmp"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(j.path("i-1")); err != nil || info.Mode() != 0o600 {
		t.Errorf("a record with a grant: %v, %v", info.Mode(), err)
	}
	got, damaged, err := j.load()
	if err != nil || len(damaged) > 0 {
		t.Fatal(damaged, err)
	}
	if diff := cmp.Diff([]*record{r}, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	for range 2 {
		if err := j.remove("i-2"); err != nil {
			t.Error(err)
		}
	}
}

func TestStatusTellsTheEnd(t *testing.T) {
	i := newInstance(&record{Made: true, Spec: manager.InstanceSpec{ID: "i-1", Memory: 5}})
	now := time.Unix(9, 0)
	if !i.report(wire.Status{Phase: wire.Attested, InstanceID: ident.KeyHash{1}}, now) {
		t.Error("a new phase is no change")
	}
	if i.report(wire.Status{Phase: wire.Attested}, now) {
		t.Error("the same report is a change")
	}
	i.report(wire.Status{Phase: wire.Running}, now)
	s := i.status()
	if s.State != manager.StateRunning || s.InstanceID != (ident.KeyHash{1}) || !s.StartedAt.Equal(now) {
		t.Errorf("%+v", s)
	}
	i.stopping = true
	if s := i.status(); s.State != manager.StateStopping {
		t.Errorf("%+v", s)
	}
	for rule, e := range map[string]exit{"out_of_memory": {Code: 137, OOM: true}, "node_restarted": {Code: 255, Lost: true}, "not_committed": {Code: 137, Killed: true}, "": {}} {
		i.rec.Exit = &e
		s := i.status()
		if s.State != manager.StateExited || s.ExitCode != e.Code || (s.Problem == nil) != (rule == "") ||
			s.Problem != nil && string(s.Problem.Rule) != rule {
			t.Errorf("%+v: %+v", e, s)
		}
	}

	i.rec.Report.Problem = problem.New(problem.Unavailable, wire.RuleNotCommitted, "code 137")
	for rule, e := range map[problem.Rule]exit{"out_of_memory": {Code: 137, OOM: true}, wire.RuleNotCommitted: {Code: 137}} {
		i.rec.Exit = &e
		if p := i.status().Problem; p == nil || p.Rule != rule {
			t.Errorf("%+v of what was not committed: %v", e, p)
		}
	}
}

// TestSlowWatcher: it gets the last state of each, and holds up nobody.
func TestSlowWatcher(t *testing.T) {
	n := &Node{instances: map[ident.AttemptID]*instance{}, watchers: map[chan manager.InstanceEvent]*backlog{}}
	ctx, cancel := context.WithCancel(t.Context())
	events, err := n.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		n.mu.Lock()
		n.publish(manager.InstanceEvent{Status: manager.InstanceStatus{ID: "a", ExitCode: i}})
		n.publish(manager.InstanceEvent{Status: manager.InstanceStatus{ID: "b", ExitCode: i}})
		n.mu.Unlock()
	}
	last := map[ident.AttemptID]int{}
	for last["a"] != 999 || last["b"] != 999 {
		e := <-events
		last[e.Status.ID] = e.Status.ExitCode
	}
	cancel()
	for range events { // closed, at last
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.watchers) != 0 {
		t.Error("the watcher stays")
	}
}

func TestMountsBelow(t *testing.T) {
	const info = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /s/a rw - tmpfs x rw\n3 2 0:3 / /s/a/b\\040c rw - tmpfs x rw\n" +
		"4 1 0:4 / /sibling rw - tmpfs x rw\n5 1 0:5 / /s rw - tmpfs x rw\n"
	points, err := mountsBelow(strings.NewReader(info), "/s")
	if diff := cmp.Diff([]string{"/s/a/b c", "/s/a"}, points); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if points, err := mountsBelow(strings.NewReader(info+"short\n"), "/s"); err == nil {
		t.Errorf("of a list that can't be read: %v", points)
	}
}

// TestRenewResolvConf: an instance that runs gets name servers that come later, in the
// file that it has mounted, and keeps those that it had while the machine has none.
func TestRenewResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("# the machine has no name server that an instance could reach\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mounted, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mounted.Close() }()
	for _, tt := range []struct {
		content string
		servers int
		want    string
		renewed bool
	}{
		{"# none\n", 0, "# the machine has no name server that an instance could reach\n", false},
		{"nameserver 192.0.2.53\n", 1, "nameserver 192.0.2.53\n", true},
		{"nameserver 192.0.2.53\n", 1, "nameserver 192.0.2.53\n", false},
		{"# none\n", 0, "nameserver 192.0.2.53\n", false},
		{"nameserver 192.0.2.54\nsearch a.example\n", 1, "nameserver 192.0.2.54\nsearch a.example\n", true},
		{"nameserver 10.0.0.1\n", 1, "nameserver 10.0.0.1\n", true},
	} {
		renewed, err := renewResolvConf(path, []byte(tt.content), tt.servers)
		if err != nil || renewed != tt.renewed {
			t.Errorf("%q: %v, %v", tt.content, renewed, err)
		}
		if got, err := io.ReadAll(io.NewSectionReader(mounted, 0, 1000)); err != nil || string(got) != tt.want {
			t.Errorf("%q: the instance has %q, %v", tt.content, got, err)
		}
	}
	if _, err := renewResolvConf(path+".none", []byte("nameserver 10.0.0.1\n"), 1); err == nil {
		t.Error("no file")
	}
}
