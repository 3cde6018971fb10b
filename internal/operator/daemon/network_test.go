package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/netcheck"
	"cupel.dev/cupel/internal/testing/need"
)

func TestShowTellsWhatIsInTheWay(t *testing.T) {
	s := Serving{Network: []netcheck.Probe{
		{Name: netcheck.InstanceOutside, What: "an instance reaches the world outside", Cause: "the firewall drops it", Mend: []string{"nft one", "nft two"}},
		{Name: netcheck.UsersIPv4, What: "users reach port 8082", Cause: "the firewall drops it", Mend: []string{"nft one", "nft two"}},
	}}
	var out bytes.Buffer
	Show(&out, "/state", s)
	want := `
  WARNING: this machine's firewall or settings stand in the way. This fails:
    an instance reaches the world outside
    users reach port 8082
      the firewall drops it
        mend: nft one
        mend: nft two
  Then try again: cupel check --state /state
`
	if !strings.Contains(out.String(), want) {
		t.Errorf("%s\nwant%s", out.String(), want)
	}
	out.Reset()
	if Show(&out, "/state", Serving{}); strings.Contains(out.String(), "WARNING") {
		t.Error(out.String())
	}

	out.Reset()
	c := &cli{out: &out}
	if err := c.printServing(s); err != nil {
		t.Fatal(err)
	}
	var got struct {
		CAS     any              `json:"cas"`
		Network []netcheck.Probe `json:"network"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got.Network) != 2 || got.CAS == nil {
		t.Errorf("%s: %v", out.String(), err)
	}
}

// TestCheckCommand tries `cupeld check` where nothing runs, on a machine of its own:
// it says what is in the way, ends with a code of its own, and leaves nothing.
func TestCheckCommand(t *testing.T) {
	const inLab = "CUPEL_DAEMON_LAB"
	if os.Getenv(inLab) == "" {
		need.Root(t)
		need.Programs(t, "nft", "ip", "containerd", "runc")
		need.File(t, "/usr/lib/cni/bridge")
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestCheckCommand$", "-test.v")
		cmd.Env = append(os.Environ(), inLab+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if t.Logf("%s", out); err != nil {
			t.Error(err)
		}
		return
	}
	sh := func(command string) string {
		t.Helper()
		out, err := exec.Command("sh", "-ec", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		return string(out)
	}
	sh("ip link set lo up; ip link add d0 type veth peer name d1; ip addr add 192.0.2.10/24 dev d0; ip link set d0 up; ip link set d1 up; ip route add default via 192.0.2.1")
	left := func() string { return sh("ip -br link | wc -l; ip route; nft list tables") }
	before := left()
	state := filepath.Join(folder(t), "none")
	run := func(args ...string) (code int, out, errs string) {
		var o, e bytes.Buffer
		code = Main(t.Context(), append([]string{args[0], "--state", state}, args[1:]...), Caller{In: os.Stdin, Out: &o, Err: io.MultiWriter(&e, os.Stderr), Env: func(string) string { return "" }})
		return code, o.String(), e.String()
	}

	if code, out, errs := run("check"); code != 0 || strings.Contains(out, "FAILS") || strings.Count(out, "ok ") != 5 || errs != "" {
		t.Errorf("an open machine: %d\n%s%s", code, out, errs)
	}
	sh("nft add table inet firewalld; nft 'add chain inet firewalld f { type filter hook forward priority 10; }'; nft add rule inet firewalld f reject with icmpx admin-prohibited")
	withFirewall := left()
	code, out, errs := run("check")
	if code != 7 || strings.Count(out, "FAILS") != 3 || !strings.Contains(out, "mend: ") || !strings.Contains(errs, "network_blocked") {
		t.Errorf("a firewall: %d\n%s%s", code, out, errs)
	}
	code, out, _ = run("check", "-o", "json")
	var r netcheck.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 7 || r.OK || len(r.Failed()) != 3 {
		t.Errorf("%d, %v:\n%s", code, err, out)
	}
	for _, bad := range []string{"8.8.8.0/24", "192.0.2.0/24"} {
		if code, _, errs := run("check", "--subnet", bad); code == 0 || !strings.Contains(errs, "subnet") {
			t.Errorf("--subnet %s: %d, %s", bad, code, errs)
		}
	}
	sh("nft delete table inet firewalld")
	kept := folder(t)
	if err := errors.Join(os.MkdirAll(kept, 0o755), os.WriteFile(filepath.Join(kept, "ports.json"), []byte(`{"first-port":"23090"}`), 0o644)); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"(tried: 8082)":  {"check"},
		"(tried: 23090)": {"check", "--state", kept},
		"(tried: 23100)": {"check", "--state", kept, "--first-port", "23100"},
	} {
		if code, out, errs := run(args...); code != 0 || !strings.Contains(out, want) {
			t.Errorf("%v: %d\n%s%s\nwant %s", args, code, out, errs, want)
		}
	}
	sh("nft add table inet firewalld")
	if got := left(); got != withFirewall || before == got {
		t.Errorf("left:\n%s\nwas:\n%s", got, withFirewall)
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("it made the state folder")
	}
}

// What happens to the network is an event, each once.
func TestNetworkIsTold(t *testing.T) {
	var got []string
	tell := func(i manager.Incident) { got = append(got, fmt.Sprintf("%s %v %s", i.Reason, i.Warning, i.Message)) }
	now := time.Now()
	told := networkTold{now: func() time.Time { return now }}
	broken := errors.New("no netlink")
	told.restored(ofNetwork, "", nil, tell)
	told.restored(ofNetwork, "the bridge was down", nil, tell)
	told.restored(ofPacketRules, "", broken, tell)
	told.restored(ofPacketRules, "", broken, tell)
	told.restored(ofPacketRules, "the table was gone", nil, tell)
	told.restored(ofPacketRules, "", broken, tell)
	for range 20 { // another program does it again and again, and mostly it can't be mended
		now = now.Add(tendEvery)
		told.restored(ofPacketRules, "the table was gone", fmt.Errorf("%w: try %s", broken, now), tell)
		told.restored(ofPacketRules, "", nil, tell)
	}
	for range 2 * int(quietFor/tendEvery) {
		now = now.Add(tendEvery)
		told.restored(ofPacketRules, "", nil, tell)
	}
	told.restored(ofPacketRules, "", broken, tell)
	blocked := netcheck.Report{Probes: []netcheck.Probe{{Name: netcheck.InstanceCAS, Cause: "a rule", Mend: []string{"nft x"}}}}
	again := netcheck.Report{Probes: []netcheck.Probe{{Name: netcheck.InstanceCAS, Cause: "a rule", Mend: []string{"nft x handle 7"}}}}
	for _, r := range []netcheck.Report{{OK: true}, blocked, blocked, again, {OK: true}, {OK: true}} {
		told.network(r, tell)
	}
	want := []string{
		"network_restored true the bridge was down",
		"packet_rules_broken true no netlink; it is tried again every few seconds",
		"packet_rules_restored true the table was gone",
		"packet_rules_mended false nothing was wrong for a minute any more",
		"packet_rules_broken true no netlink; it is tried again every few seconds",
		"network_blocked true network_blocked: instance_cas: a rule (expected instances and users let through); nft x; then cupel check again",
		"network_clear false nothing of this machine is in the way of instances and users any more",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestRestoredTellsNoFlood: what another program does every few seconds is told at once,
// and then once an hour, with how often it was.
func TestRestoredTellsNoFlood(t *testing.T) {
	now := time.Now()
	told := networkTold{now: func() time.Time { return now }}
	var got []string
	tell := func(i manager.Incident) { got = append(got, i.Message) }
	const found = "another program set net.ipv4.ip_forward to 0: it is 1 again"
	for began := now; now.Sub(began) < 24*time.Hour; now = now.Add(tendEvery) {
		told.restored(ofNetwork, found, nil, tell)
		told.restored(ofPacketRules, "", nil, tell)
	}
	if len(got) != 24 || got[0] != found || !strings.HasPrefix(got[1], found+"; that was found again 719 times") {
		t.Errorf("%d events in a day: %q", len(got), got)
	}

	// That the numbers in it differ makes no other thing of it.
	got = nil
	told = networkTold{now: told.now}
	for clients := range 100 {
		told.restored(ofPacketRules, fmt.Sprintf("the table was gone; %d clients keep their instances", clients), nil, tell)
	}
	if len(got) != 1 || got[0] != "the table was gone; 0 clients keep their instances" {
		t.Errorf("%d events: %q", len(got), got)
	}

	// Another thing is told at once, and the same one where it was over for an hour.
	got = nil
	told = networkTold{now: told.now}
	for _, part := range []tended{ofNetwork, ofPacketRules, ofNetwork} {
		told.restored(part, found, nil, tell)
		told.restored(ofNetwork, "the bridge was down", nil, tell)
	}
	for range 2 {
		now = now.Add(repeatEvery)
		told.restored(ofNetwork, "", nil, tell)
	}
	got = append(got[:3], got[5:]...) // without what happened in the first of the two hours
	told.restored(ofNetwork, found, nil, tell)
	if diff := cmp.Diff([]string{found, "the bridge was down", found, found}, got); diff != "" {
		t.Error(diff)
	}
}

// TestNetworkUnchecked: where the check of the network takes too long, as by another one
// that hangs, everything serves, and who starts it hears that nothing is known.
func TestNetworkUnchecked(t *testing.T) {
	o := upOptions(t)
	o.checkTimeout = 200 * time.Millisecond
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.path("cni"), 0o755); err != nil {
		t.Fatal(err)
	}
	other, err := lockCheck(t.Context(), l.path("cni"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()

	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var got Serving
	err = Up(ctx, o, slog.New(slog.DiscardHandler), func(s Serving) error {
		got = s
		cancel(errStop)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Unchecked == nil || got.Unchecked.Rule != "network_unchecked" || !strings.Contains(got.Unchecked.Actual, "another check is at work") {
		t.Errorf("%+v", got.Unchecked)
	}
	var out bytes.Buffer
	Show(&out, o.State, got)
	if !strings.Contains(out.String(), "WARNING: it is not known whether") || !strings.Contains(out.String(), "Try again: cupel check") {
		t.Errorf("%s", out.String())
	}
	out.Reset()
	if err := (&cli{out: &out}).printServing(got); err != nil || !strings.Contains(out.String(), `"network_unchecked":{`) {
		t.Errorf("%s: %v", out.String(), err)
	}
}

// It is an event, once, until it is known again.
func TestNetworkUncheckedIsTold(t *testing.T) {
	var told networkTold
	times := 0
	tell := func(i manager.Incident) {
		if times++; i.Reason != "network_unchecked" || !i.Warning {
			t.Errorf("%+v", i)
		}
	}
	why := errors.New("too slow")
	told.notChecked(why, tell)
	told.notChecked(why, tell)
	told.network(netcheck.Report{OK: true}, tell)
	told.notChecked(why, tell)
	if times != 2 {
		t.Errorf("told %d times, want 2", times)
	}
}
