package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/netcheck"
)

// A person may ask for a host, in an instance's words.
func TestTargets(t *testing.T) {
	gateway := netip.MustParseAddr("10.88.7.1")
	got, err := targets(t.Context(), []string{"host.cupel.internal:3000", "192.0.2.7:443"}, gateway)
	if err != nil || len(got) != 2 || got[0].Addr != netip.AddrPortFrom(gateway, 3000) || got[1].Addr != netip.MustParseAddrPort("192.0.2.7:443") {
		t.Errorf("%v, %v", got, err)
	}
	for asked, want := range map[string]string{
		"git.example.com":     "HOST:PORT",
		"192.0.2.7:":          "HOST:PORT",
		"192.0.2.7:70000":     "HOST:PORT",
		":443":                "HOST:PORT",
		"127.0.0.1:3000":      "host.cupel.internal:3000",
		"0.0.0.0:3000":        "host.cupel.internal:3000",
		"localhost:3000":      "host.cupel.internal:3000",
		"[2001:db8::1]:443":   "IPv4",
		"nowhere.invalid:443": "IPv4",
	} {
		if _, err := targets(t.Context(), []string{asked}, gateway); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", asked, err, want)
		}
	}
}

// What fails while public ports come or go is tried once more, with those that there are
// then; what fails while they stay is told.
func TestPortsThatComeMeanwhile(t *testing.T) {
	fails := netcheck.Report{Probes: []netcheck.Probe{{Name: netcheck.UsersIPv6, Cause: "another program answers"}}}
	for name, tt := range map[string]struct {
		ports [][]uint16 // as they are read, one time after the other
		first netcheck.Report
		tried string
		ok    bool
	}{
		"they come":           {ports: [][]uint16{nil, {8082}}, first: fails, tried: "[] [8082]", ok: true},
		"others come":         {ports: [][]uint16{{8082}, {8082, 8083}}, first: fails, tried: "[8082] [8082 8083]", ok: true},
		"they stay":           {ports: [][]uint16{{8082}, {8082}}, first: fails, tried: "[8082]"},
		"nothing fails at it": {ports: [][]uint16{nil, {8082}}, first: netcheck.Report{OK: true}, tried: "[]", ok: true},
	} {
		var tried []string
		ports := func() ([]uint16, error) {
			p := tt.ports[0]
			tt.ports = tt.ports[1:]
			return p, nil
		}
		r, err := tryPorts(ports, func(p []uint16) (netcheck.Report, error) {
			if tried = append(tried, fmt.Sprint(p)); len(tried) == 1 {
				return tt.first, nil
			}
			return netcheck.Report{OK: true}, nil
		})
		if got := strings.Join(tried, " "); err != nil || got != tt.tried || r.OK != tt.ok {
			t.Errorf("%s: tried %s (OK %t, %v), want %s", name, got, r.OK, err, tt.tried)
		}
	}
}

// What isn't known is neither fine nor a failure.
func TestReportTellsWhatIsUnknown(t *testing.T) {
	r := netcheck.Report{OK: true, Probes: []netcheck.Probe{{What: "an instance reaches the world outside", Unknown: true, Cause: "not known: a list", Mend: []string{"nft x"}}}}
	want := "?      an instance reaches the world outside\n       not known: a list\n         mend: nft x\n"
	if got := string(appendReport(nil, r)); got != want || r.Problem() != nil || len(r.Failed()) != 0 {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// A mend that stands above is not printed again.
func TestReportSaysAMendOnce(t *testing.T) {
	r := netcheck.Report{Probes: []netcheck.Probe{
		{What: "an instance reaches the CAS", Cause: "one", Mend: []string{"ip x"}},
		{What: "users reach the public port", Cause: "two", Mend: []string{"ip x"}},
	}}
	want := "FAILS  an instance reaches the CAS\n       one\n         mend: ip x\nFAILS  users reach the public port\n       two\n         mend: as above\n"
	if got := string(appendReport(nil, r)); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// The port that is tried is the running installation's, unless another one is asked for.
func TestFirstPortIsKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ports.json")
	p := loadPorts(file)
	if p.first() != 8082 {
		t.Error(p.first())
	}
	p.last[firstPortKept] = "23090"
	if err := p.save(); err != nil {
		t.Fatal(err)
	}
	p = loadPorts(file)
	if p.first() != 23090 {
		t.Error(p.first())
	}
	if err := p.free()(23090); err != nil && strings.Contains(err.Error(), "own") {
		t.Error("an app can't have the first port:", err)
	}
}

// Whether cupeld runs is the lock's to say: after a power cut any process may have the
// number that manager.json names.
func TestCheckAsksTheLock(t *testing.T) {
	o := upOptions(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := l.make()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.release()
	if err := lock.sign(workDown); err != nil {
		t.Fatal(err)
	}
	endpoint := fmt.Appendf(nil, `{"version":1,"address":"127.0.0.1:1","pid":%d}`, os.Getpid())
	if err := os.WriteFile(l.path(client.EndpointFile), endpoint, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := client.ReadEndpoint(l.dir); err != nil {
		t.Fatal(err)
	}

	_, err = Check(t.Context(), o, slog.New(slog.DiscardHandler))
	if held, ok := errors.AsType[*lockedError](err); !ok || held.what != workDown {
		t.Errorf("%v: want that cupel down is at work", err)
	}

	// What is no address is refused whoever is at work.
	for rule, change := range map[string]func(*Options){"listen": func(o *Options) { o.CASInstances = "foo" }, "subnet": func(o *Options) { o.Subnet = "foo" }} {
		wrong := o
		change(&wrong)
		if _, err := Check(t.Context(), wrong, slog.New(slog.DiscardHandler)); string(problem.From(err).Rule) != rule {
			t.Errorf("%s: %v", rule, err)
		}
	}
}
