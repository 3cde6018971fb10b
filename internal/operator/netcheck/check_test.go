package netcheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cupel.dev/cupel/internal/testing/need"
)

// The tests need a machine of their own. The test binary runs itself again in new
// namespaces for each test, which are the machine; they vanish with the process.

const inLab = "CUPEL_NETCHECK_LAB"

func onOwnMachine(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inLab) != "" {
		return true
	}
	need.Root(t)
	need.Programs(t, "nft", "ip", "sysctl")
	t.Parallel()           // most of it is waiting
	runtime.LockOSThread() // Pdeathsig is sent when the thread that forked ends
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v")
	cmd.Env = append(os.Environ(), inLab+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	return false
}

const testID = "0c0ffee0"

// machine sets up an uplink, a default route and the instances' bridge.
func machine(t *testing.T) Config {
	t.Helper()
	cfg := Config{
		ID: testID, Bridge: "cpl" + testID,
		Subnet:  netip.MustParsePrefix("10.88.7.0/24"),
		Gateway: netip.MustParseAddr("10.88.7.1"), Instance: netip.MustParseAddr("10.88.7.254"),
		HostName: "host.cupel.internal", CASPort: 18765, FirstPort: 8082, Resolvers: []netip.Addr{netip.MustParseAddr("203.0.113.53")},
	}
	run(t, "ip link set lo up",
		"ip link add d0 type veth peer name d1", "ip addr add 192.0.2.10/24 dev d0", "ip addr add 2001:db8::10/64 dev d0 nodad",
		"ip link set d0 up", "ip link set d1 up", "ip route add default via 192.0.2.1",
		"ip link add "+cfg.Bridge+" type bridge", "ip addr add 10.88.7.1/24 dev "+cfg.Bridge, "ip link set "+cfg.Bridge+" up",
		"sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1")
	return cfg
}

func run(t *testing.T, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if out, err := exec.Command("sh", "-ec", c).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", c, err, out)
			runtime.Goexit()
		}
	}
}

func check(t *testing.T, cfg Config) Report {
	t.Helper()
	r, err := Run(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Probes {
		t.Logf("%v", p)
	}
	return r
}

func names(probes []Probe) []string {
	var out []string
	for _, p := range probes {
		out = append(out, p.Name)
	}
	return out
}

// TestTraps: each trap of a host is told, with the probes that it stops and what
// it is; and the commands that the check prints let everything through.
func TestTraps(t *testing.T) {
	const forwarded = InstanceOutside + " " + InstanceDNS + " " + UsersIPv4
	nftForward := "nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'"
	cases := []struct {
		name, need, trap, failed string
		cause                    []string
		mend                     string
	}{
		{"open", "", "true", "", nil, ""},
		{"nft policy", "", nftForward, forwarded, []string{"policy drop", "ip filter FORWARD", "forward"}, ""},
		{"nft policy with the bridge accepted outwards only", "",
			nftForward + "; nft add rule ip filter FORWARD iifname cpl0c0ffee0 accept", InstanceOutside + " " + UsersIPv4, []string{"policy drop"}, ""},
		{"nft rules for the uplink accept", "", nftForward + `
			nft add rule ip filter FORWARD iifname cpl0c0ffee0 oifname d0 accept
			nft add rule ip filter FORWARD iifname d0 oifname cpl0c0ffee0 accept`, "", nil, ""},
		{"nft rules for another uplink", "", nftForward + `
			nft add rule ip filter FORWARD iifname cpl0c0ffee0 oifname eth7 accept
			nft add rule ip filter FORWARD iifname eth7 oifname cpl0c0ffee0 accept`, forwarded, []string{"policy drop"}, ""},
		{"firewalld", "", `nft add table inet firewalld
			nft 'add chain inet firewalld f { type filter hook forward priority 10; policy accept; }'
			nft add rule inet firewalld f reject with icmpx admin-prohibited`, forwarded, []string{"inet firewalld f", "reject"}, ""},
		{"a chain that a base chain jumps to", "", `nft add table inet t; nft add chain inet t no
			nft 'add chain inet t f { type filter hook forward priority 0; }'
			nft add rule inet t no counter drop; nft add rule inet t f jump no`, forwarded, []string{"inet t no", "drop"}, ""},
		{"docker", "iptables-nft", `iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; iptables-nft -A DOCKER-USER -j RETURN
			iptables-nft -I FORWARD -j DOCKER-USER`, forwarded, []string{"policy drop", "FORWARD"}, ""},
		{"iptables-legacy policy", "iptables-legacy", "iptables-legacy -P FORWARD DROP", forwarded, []string{"iptables-legacy", "FORWARD"}, ""},
		{"iptables-legacy rule", "iptables-legacy", "iptables-legacy -A FORWARD -j REJECT", forwarded, []string{"iptables-legacy", "REJECT", "forward"}, ""},
		{"nft input", "", "nft add table inet f; nft 'add chain inet f in { type filter hook input priority 0; policy drop; }'; nft add rule inet f in icmpv6 type nd-neighbor-solicit accept",
			InstanceCAS + " " + HostInstance + " " + UsersIPv6, []string{"inet f in", "input"}, ""},
		{"iptables-legacy input", "iptables-legacy", "iptables-legacy -P INPUT DROP", InstanceCAS + " " + HostInstance, []string{"iptables-legacy", "INPUT"}, ""},
		{"ip6tables-legacy input", "ip6tables-legacy", "ip6tables-legacy -P INPUT DROP", UsersIPv6, []string{"ip6tables-legacy", "INPUT"}, ""},
		{"output", "", "nft add table ip f; nft 'add chain ip f o { type filter hook output priority 0; policy drop; }'",
			InstanceCAS + " " + HostInstance, []string{"output"}, ""},
		{"prerouting", "", "nft add table ip f; nft 'add chain ip f p { type filter hook prerouting priority -300; }'; nft add rule ip f p iifname cpl0c0ffee0 drop",
			InstanceCAS + " " + InstanceOutside + " " + InstanceDNS + " " + HostInstance + " " + UsersIPv4, []string{"prerouting"}, ""},
		{"bridge", "", "nft add table bridge f; nft 'add chain bridge f i { type filter hook input priority 0; }'; nft add rule bridge f i ip protocol tcp drop",
			InstanceCAS + " " + InstanceOutside + " " + HostInstance + " " + UsersIPv4, []string{"bridge f i"}, ""},
		{"bridge, all", "", "nft add table bridge f; nft 'add chain bridge f i { type filter hook prerouting priority 0; policy drop; }'",
			InstanceCAS + " " + InstanceOutside + " " + InstanceDNS + " " + HostInstance + " " + UsersIPv4, []string{"policy drop", "bridge f i"}, ""},
		{"ip_forward", "", "sysctl -qw net.ipv4.ip_forward=0", forwarded, []string{"ip_forward is 0"}, ""},
		{"forwarding of the bridge", "", "sysctl -qw net.ipv4.conf.cpl0c0ffee0.forwarding=0", forwarded, []string{"forwarding is off"}, ""},
		{"ip rule of a VPN", "", `ip link add tun9 type veth peer name tun8; ip addr add 10.9.0.1/24 dev tun9; ip link set tun9 up; ip link set tun8 up
			ip route add 10.0.0.0/8 dev tun9 table 77; ip rule add to 10.0.0.0/8 lookup 77 priority 5`,
			InstanceCAS + " " + InstanceOutside + " " + InstanceDNS + " " + HostInstance + " " + UsersIPv4, []string{"tun9", "ip rule"}, ""},
		{"routes of a VPN", "", "ip route add 0.0.0.0/1 via 192.0.2.1; ip route add 128.0.0.0/1 via 192.0.2.1; ip route add 10.0.0.0/8 via 192.0.2.1", "", nil, ""},
		{"no way to the name server", "", "ip route add unreachable 203.0.113.0/24", InstanceDNS, []string{"no route to 203.0.113.53"},
			"ip route del unreachable 203.0.113.0/24"},
		{"no uplink and a firewall", "", "ip route del default; ip route add 203.0.113.0/24 via 192.0.2.1; " + nftForward, forwarded, []string{"policy drop"}, ""},
	}
	for _, tt := range cases {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			trap{name: tt.name, need: tt.need, trap: tt.trap, failed: tt.failed, cause: tt.cause, mend: tt.mend}.run(t)
		})
	}
}

// state is what a check must leave as it was.
func state(t *testing.T) string {
	t.Helper()
	var out []string
	for _, c := range []string{
		"ip -br link | cut -d' ' -f1", "ip -o -4 addr", "ip -4 route show table all | sed 's/ linkdown//'",
		"ip -6 route show table all | sed 's/ linkdown//' | grep -v multicast", "ip neigh show nud permanent", "nft list tables",
	} {
		b, err := exec.Command("sh", "-c", c).CombinedOutput()
		if err != nil {
			t.Fatal(c, err, string(b))
		}
		// The bridge has no carrier without ports, whenever the kernel notes it.
		for line := range strings.Lines(string(b)) {
			if !strings.Contains(line, "cpl"+testID) && !strings.Contains(line, "fe80::") {
				out = append(out, line)
			}
		}
	}
	return strings.Join(out, "")
}

func TestNoResolver(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	cfg := machine(t)
	for _, resolvers := range [][]netip.Addr{nil, {netip.MustParseAddr("2001:db8::53")}} {
		cfg.Resolvers = resolvers
		failed := check(t, cfg).Failed()
		if len(failed) != 1 || failed[0].Name != InstanceDNS || !strings.Contains(failed[0].Cause, "resolv.conf") {
			t.Errorf("%v: %v", resolvers, failed)
		}
	}
}

// A CAS that listens on another address is no firewall's fault.
func TestNothingListens(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	cfg := machine(t)
	cfg.CASRuns = true
	failed := check(t, cfg).Failed()
	if len(failed) != 1 || failed[0].Name != InstanceCAS || !slices.Equal(failed[0].Mend, []string{"cupel up --cas-instances 0.0.0.0:18765"}) {
		t.Errorf("%v", failed)
	}
}

// What a check that was killed left is taken away by the next one.
func TestCleansUp(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	cfg := machine(t)
	before := state(t)
	l, err := newLab(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if state(t) == before {
		t.Fatal("a lab that changes nothing")
	}
	if r := check(t, cfg); !r.OK || state(t) != before {
		t.Errorf("%v\n%s\nwas\n%s", r, state(t), before)
	}
}

func TestEndsWithItsContext(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, machine(t)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestProblem(t *testing.T) {
	r := Report{Probes: []Probe{
		{Name: InstanceCAS, Cause: "first", Mend: []string{"a", "b"}},
		{Name: UsersIPv4, OK: true},
		{Name: UsersIPv6, Cause: "second", Mend: []string{"b", "c"}},
		{Name: InstanceDNS, Cause: "first", Mend: []string{"a", "b"}},
	}}
	want := "network_blocked: instance_cas, instance_dns: first; users_ipv6: second (expected instances and users let through); a; b; c; then cupel check again"
	if got := fmt.Sprint(r.Problem()); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if err := (Report{OK: true}).Problem(); err != nil {
		t.Error(err)
	}
}

// TestTargets: what a person asks for is called from an instance, and told for itself.
func TestTargets(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	cfg := machine(t)
	run(t, inputDrop+"nft add rule inet f in iifname cpl0c0ffee0 tcp dport '{ 18765, 3001, 3002 }' accept",
		"nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; }'; nft add rule ip filter FORWARD ip daddr 203.0.113.9 counter drop")
	listens(t, "0.0.0.0:3000", "0.0.0.0:3001")
	for _, text := range []string{"10.88.7.1:3000", "10.88.7.1:3001", "10.88.7.1:3002", "203.0.113.9:443", "192.0.2.77:443"} {
		cfg.To = append(cfg.To, Target{Text: text, Addr: netip.MustParseAddrPort(text)})
	}
	got := map[string]Probe{}
	for _, p := range check(t, cfg).Probes {
		if p.Name == InstanceTo {
			got[strings.TrimPrefix(p.What, "an instance reaches ")] = p
		}
	}
	for text, words := range map[string][]string{
		"10.88.7.1:3000":  {"inet f in", "tcp dport 3000 accept"},
		"10.88.7.1:3002":  {"nothing listens at 10.88.7.1:3002", "not on 127.0.0.1"},
		"203.0.113.9:443": {"ip daddr 203.0.113.9", "drop", "forward"},
		"192.0.2.77:443":  {"nothing of this machine stops it", "leaving by d0"},
	} {
		p := got[text]
		for _, w := range words {
			if p.OK || !strings.Contains(p.Cause+strings.Join(p.Mend, "\n"), w) {
				t.Errorf("%s doesn't say %q: %v", text, w, p)
			}
		}
	}
	if p := got["10.88.7.1:3001"]; !p.OK {
		t.Errorf("%v", p)
	}
}

// TestPorts: each public port that leads to an app is tried.
func TestPorts(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	cfg := machine(t)
	listens(t, ":8082", ":8083")
	cfg.Ports = []uint16{8082, 8083}
	if r := check(t, cfg); !r.OK || !strings.Contains(r.Probes[4].What, "the public ports 8082, 8083 over IPv4") {
		t.Errorf("%v", r)
	}
	run(t, "nft add table inet f; nft 'add chain inet f in { type filter hook input priority 0; }'; nft add rule inet f in tcp dport 8083 drop")
	r := check(t, cfg)
	if got := strings.Join(names(r.Failed()), " "); got != UsersIPv4+" "+UsersIPv6 || !strings.Contains(r.Failed()[0].Cause, "tcp dport 8083 drop") {
		t.Errorf("%v", r.Failed())
	}
	run(t, r.Failed()[0].Mend...)
	if r := check(t, cfg); !r.OK {
		t.Errorf("%v", r)
	}
}

// What was found last is the same each time, however many packets a rule has counted.
func TestSaysTheSame(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	cfg := machine(t)
	run(t, "nft add table ip f; nft 'add chain ip f o { type filter hook forward priority 0; }'; nft add rule ip f o counter drop")
	first := check(t, cfg).Problem()
	if again := check(t, cfg).Problem(); first == nil || again == nil || again.Error() != first.Error() {
		t.Errorf("%v\n%v", first, again)
	}
}

// listens opens addresses for as long as the test runs.
func listens(t *testing.T, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		go func() {
			for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
				_ = c.Close()
			}
		}()
	}
}
