package netcheck

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"cupel.dev/cupel/internal/testing/need"
)

// Most of a check is waiting.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// trap is what a machine may have in the way, and what the check has to say of it.
type trap struct {
	name   string
	need   string // a program, or empty
	tun    string // a VPN's device that is made first, or empty
	trap   string
	failed string   // probes
	cause  []string // words of each cause
	mend   string   // instead of the printed one, where that needs a person

	unknown string   // probes of which nothing is known
	notes   []string // words of the report beside the causes
	never   []string // words that no mend has
}

// run has the check find the trap, and follows what it prints until nothing fails.
func (tt trap) run(t *testing.T) {
	if tt.need != "" {
		need.Programs(t, tt.need)
	}
	if !onOwnMachine(t) {
		return
	}
	cfg := machine(t)
	if tt.tun != "" {
		tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: tt.tun}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1, NonPersist: true}
		if err := netlink.LinkAdd(tun); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tun.Fds[0].Close() }() // without a reader it has no carrier
	}
	run(t, tt.trap)
	before := state(t)
	r := check(t, cfg)
	if after := state(t); after != before {
		t.Errorf("the check left something:\n%s\nwas:\n%s", after, before)
	}
	tt.judge(t, r)

	// One rule may stand behind another: the mend is followed as long as it leads on.
	for range 3 {
		if r.OK {
			return
		}
		if tt.mend != "" {
			run(t, tt.mend)
		} else {
			var mend []string
			for _, p := range r.Failed() {
				mend = append(mend, p.Mend...)
			}
			run(t, unique(mend)...)
		}
		r = check(t, cfg)
	}
	if !r.OK {
		t.Errorf("after the mend there still fail: %v", names(r.Failed()))
	}
}

func (tt trap) judge(t *testing.T, r Report) {
	t.Helper()
	if got := strings.Join(names(r.Failed()), " "); got != tt.failed || r.OK != (got == "") {
		t.Errorf("fails: %q (OK %v), want %q", got, r.OK, tt.failed)
	}
	for _, p := range r.Failed() {
		for _, w := range tt.cause {
			if !strings.Contains(p.Cause, w) {
				t.Errorf("%s: the cause doesn't say %q: %s", p.Name, w, p.Cause)
			}
		}
	}
	var unknown []string
	var words strings.Builder
	for _, p := range r.Probes {
		if p.Unknown {
			unknown = append(unknown, p.Name)
		}
		words.WriteString(p.What + "\n" + p.Note + "\n")
		if p.Unknown {
			words.WriteString(p.Cause + "\n" + strings.Join(p.Mend, "\n") + "\n")
		}
		for _, w := range tt.never {
			for _, m := range p.Mend {
				if strings.Contains(m, w) {
					t.Errorf("%s: the mend is too wide: %s", p.Name, m)
				}
			}
		}
	}
	if got := strings.Join(unknown, " "); got != tt.unknown {
		t.Errorf("not known: %q, want %q", got, tt.unknown)
	}
	for _, w := range tt.notes {
		if !strings.Contains(words.String(), w) {
			t.Errorf("it doesn't say %q: %s", w, words.String())
		}
	}
}

const (
	// fullTunnel is what wg-quick makes of a VPN that takes everything.
	fullTunnel = `ip addr add 10.66.0.2/32 dev wg0; ip link set wg0 up
		ip route add default dev wg0 table 51820
		ip rule add not fwmark 51820 table 51820; ip rule add table main suppress_prefixlength 0
		`
	policyDrop = `nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
		nft add rule ip filter FORWARD ct state established,related accept
		`
	raw = `nft add table ip r; nft 'add chain ip r P { type filter hook prerouting priority -300; }'
		`
	inputDrop = `nft add table inet f; nft 'add chain inet f in { type filter hook input priority 0; policy drop; }'
		nft add rule inet f in icmpv6 type nd-neighbor-solicit accept
		nft add rule inet f in ct state established,related accept
		`
)

// TestRoutesAstray: rules and routes that lead elsewhere than the check's own route are
// followed as other packets follow them.
func TestRoutesAstray(t *testing.T) {
	ended := func(kind string) trap {
		return trap{
			name: "a rule with " + kind, trap: "ip rule add from 10.88.7.0/24 " + kind + " priority 9",
			failed: InstanceCAS + " " + InstanceOutside + " " + InstanceDNS + " " + HostInstance + " " + UsersIPv4,
			cause:  []string{"the ip rule 9: from 10.88.7.0/24 " + kind},
		}
	}
	for _, tt := range []trap{
		{name: "full tunnel", tun: "wg0", trap: fullTunnel, failed: UsersIPv4,
			cause: []string{"out of wg0", "users come in by d0", "the ip rule", "not from all fwmark 0xca6c lookup 51820"}, notes: []string{"through wg0"}},
		{name: "full tunnel and a firewall", tun: "wg0", trap: fullTunnel + policyDrop, failed: InstanceOutside + " " + InstanceDNS + " " + UsersIPv4},
		{name: "routes of half the world each", tun: "tun0", trap: `ip addr add 10.8.0.2/24 dev tun0; ip link set tun0 up
			ip route add 0.0.0.0/1 dev tun0; ip route add 128.0.0.0/1 dev tun0`, failed: UsersIPv4, cause: []string{"out of tun0", "the route 128.0.0.0/1 dev tun0"}},
		{name: "a better default route", tun: "tun0", trap: `ip addr add 10.8.0.2/24 dev tun0; ip link set tun0 up
			ip route del default; ip route add default via 192.0.2.1 metric 100; ip route add default dev tun0 metric 50`, failed: UsersIPv4, cause: []string{"out of tun0"}},
		{name: "a rule for the instances", tun: "tun0", trap: `ip addr add 10.8.0.2/24 dev tun0; ip link set tun0 up
			ip route add default dev tun0 table 77; ip rule add iif cpl0c0ffee0 lookup 77 priority 9`, failed: UsersIPv4, cause: []string{"iif cpl0c0ffee0 lookup 77", "tun0"}},
		{name: "a rule that leads to the same device", trap: `ip route add default via 192.0.2.1 dev d0 table 77; ip rule add from 10.88.7.0/24 lookup 77 priority 9
			ip route add 10.88.7.0/24 dev cpl0c0ffee0 table 77`},
		{name: "a table that ends", trap: "ip route add blackhole default table 77; ip rule add from 10.88.7.0/24 lookup 77 priority 9",
			failed: InstanceCAS + " " + InstanceOutside + " " + InstanceDNS + " " + HostInstance + " " + UsersIPv4, cause: []string{"the ip rule 9: from 10.88.7.0/24 lookup 77, the route blackhole default"}},
		{name: "two uplinks that are as good", trap: `ip link add e0 type veth peer name e1; ip addr add 198.51.100.10/24 dev e0; ip link set e0 up; ip link set e1 up
			ip route del default; ip route add default nexthop via 192.0.2.1 dev d0 nexthop via 198.51.100.1 dev e0`},
		{name: "no default route", trap: "ip route del default; ip route add 203.0.113.0/24 via 192.0.2.1", unknown: InstanceOutside,
			notes: []string{"no IPv4 default route", "that of d0", "cupel check --to HOST:PORT", "through d0"}},
		{name: "IPv6 alone", trap: "ip route del default; ip addr del 192.0.2.10/24 dev d0; ip -6 route add default via 2001:db8::1; ip route add 203.0.113.53 dev d0",
			unknown: InstanceOutside + " " + UsersIPv4, notes: []string{"no IPv4 address", "over IPv6, through d0"}},
		{name: "full tunnel of IPv6", tun: "wg0", trap: `ip link set wg0 up; ip -6 addr add fd00:66::2/128 dev wg0 nodad
			ip -6 route add default via 2001:db8::1; ip -6 route add default dev wg0 table 51820
			ip -6 rule add not fwmark 51820 table 51820; ip -6 rule add table main suppress_prefixlength 0`, failed: UsersIPv6, cause: []string{"out of wg0", "d0"}},
		{name: "a tunnel that is down", trap: "ip tuntap add wg0 mode tun; " + fullTunnel, failed: InstanceOutside + " " + UsersIPv4, cause: []string{"wg0"},
			mend: "ip rule del table 51820"},
		ended("blackhole"), ended("prohibit"), ended("unreachable"),
		{name: "what comes in ends", trap: "ip rule add iif d0 blackhole priority 9", failed: InstanceOutside + " " + InstanceDNS + " " + UsersIPv4,
			cause: []string{"the ip rule 9: from all iif d0 blackhole"}},
		{name: "what comes in is led to a table that ends", trap: "ip route add unreachable default table 77; ip rule add iif d0 lookup 77 priority 9",
			failed: InstanceOutside + " " + InstanceDNS + " " + UsersIPv4, cause: []string{"iif d0 lookup 77", "the route unreachable default"}},
		{name: "what comes in is led elsewhere", tun: "wg0", trap: "ip link set wg0 up; ip route add default dev wg0 table 77; ip rule add iif d0 lookup 77 priority 9",
			failed: InstanceOutside + " " + InstanceDNS + " " + UsersIPv4, cause: []string{"out of wg0", "iif d0 lookup 77"}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) { tt.run(t) })
	}
}

// TestUntracked: connections that the kernel doesn't follow keep the instance's own
// address, which nobody outside can answer.
func TestUntracked(t *testing.T) {
	outward := InstanceOutside + " " + InstanceDNS
	why := []string{"doesn't follow this connection", "notrack"}
	for _, tt := range []trap{
		{name: "subnet", trap: raw + "nft add rule ip r P ip saddr 10.88.7.0/24 notrack", failed: outward + " " + UsersIPv4, cause: why},
		{name: "port", trap: raw + "nft add rule ip r P tcp dport 443 notrack", failed: InstanceOutside, cause: why},
		{name: "answers", trap: raw + "nft add rule ip r P tcp sport 8080 counter notrack", failed: UsersIPv4, cause: why},
		{name: "answers of the world", trap: raw + "nft add rule ip r P iifname d0 tcp sport 443 notrack", failed: InstanceOutside, cause: why},
		{name: "what comes in", trap: raw + "nft add rule ip r P iifname d0 notrack", failed: InstanceOutside, cause: why},
		{name: "what comes in, iptables", need: "iptables-nft", trap: "iptables-nft -t raw -A PREROUTING -i d0 -j CT --notrack", failed: InstanceOutside, cause: why[:1]},
		{name: "what comes in, iptables-legacy", need: "iptables-legacy", trap: "iptables-legacy -t raw -A PREROUTING -i d0 -j CT --notrack", failed: InstanceOutside, cause: why},
		{name: "another subnet", trap: raw + "nft add rule ip r P ip saddr 10.99.0.0/16 notrack"},
		{name: "iptables", need: "iptables-nft", trap: "iptables-nft -t raw -A PREROUTING -s 10.88.7.0/24 -j CT --notrack", failed: outward + " " + UsersIPv4, cause: why[:1]},
		{name: "iptables-legacy", need: "iptables-legacy", trap: "iptables-legacy -t raw -A PREROUTING -s 10.88.7.0/24 -j CT --notrack", failed: outward + " " + UsersIPv4, cause: why},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) { tt.run(t) })
	}
}

// TestBeforeConnections: where the kernel doesn't know yet which connection a packet is of,
// mends do without that.
func TestBeforeConnections(t *testing.T) {
	legacy := "iptables-legacy -t raw -A PREROUTING "
	never := []string{"ct state", "conntrack"}
	outward := InstanceOutside + " " + UsersIPv4
	for _, tt := range []trap{
		{name: "answers of the world", trap: raw + "nft add rule ip r P iifname d0 tcp sport 443 drop", failed: InstanceOutside, cause: []string{"tcp sport 443 drop"}},
		{name: "what comes in", trap: raw + "nft add rule ip r P iifname d0 drop", failed: outward, cause: []string{"iifname", "drop"}},
		{name: "all", trap: `nft add table inet r; nft 'add chain inet r P { type filter hook prerouting priority raw; policy drop; }'
			nft add rule inet r P icmpv6 type nd-neighbor-solicit accept`, failed: InstanceCAS + " " + InstanceOutside + " " + InstanceDNS + " " + HostInstance + " " + UsersIPv4 + " " + UsersIPv6,
			cause: []string{"policy drop"}},
		{name: "output", trap: "nft add table ip r; nft 'add chain ip r o { type filter hook output priority -300; policy drop; }'", failed: InstanceCAS + " " + HostInstance},
		{name: "iptables", need: "iptables-nft", trap: "iptables-nft -t raw -A PREROUTING -i d0 -p tcp -j DROP", failed: outward, cause: []string{"PREROUTING"}},
		{name: "iptables-legacy", need: "iptables-legacy", trap: legacy + "-i d0 -j DROP", failed: outward, cause: []string{"-i d0 -j DROP"}},
		{name: "iptables-legacy, answers", need: "iptables-legacy", trap: legacy + "-p tcp -m tcp --sport 443 -j DROP", failed: InstanceOutside, cause: []string{"--sport 443 -j DROP"}},
		{name: "iptables-legacy, from instances", need: "iptables-legacy", trap: legacy + "-i cpl0c0ffee0 -j DROP",
			failed: InstanceCAS + " " + InstanceOutside + " " + InstanceDNS + " " + HostInstance + " " + UsersIPv4, cause: []string{"-i cpl0c0ffee0 -j DROP"}},
		{name: "iptables-legacy, a chain of its own", need: "iptables-legacy", trap: "iptables-legacy -t raw -N NO; " + legacy + "-i d0 -j NO; iptables-legacy -t raw -A NO -p tcp -j DROP",
			failed: outward, cause: []string{"-A NO -p tcp -j DROP", "arriving (prerouting)"}},
	} {
		tt.never = never
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) { tt.run(t) })
	}
}

// TestByDirection: rules that judge by the direction of a connection are named where they
// are, and let nobody out who calls.
func TestByDirection(t *testing.T) {
	at := func(hook, priority string) string {
		return `nft add table inet f; nft 'add chain inet f F { type filter hook ` + hook + " priority " + priority + `; }'
			nft add rule inet f F ct direction reply drop`
	}
	why := []string{"ct direction reply drop"}
	for _, tt := range []trap{
		{name: "forward", trap: at("forward", "0"), failed: InstanceOutside + " " + UsersIPv4, cause: why},
		{name: "prerouting", trap: at("prerouting", "-150"), failed: InstanceOutside + " " + HostInstance + " " + UsersIPv4, cause: why},
		{name: "input", trap: at("input", "0"), failed: HostInstance, cause: why},
		{name: "output", trap: at("output", "0"), failed: InstanceCAS + " " + UsersIPv6, cause: why},
		{name: "postrouting", trap: at("postrouting", "50"), failed: InstanceCAS + " " + InstanceOutside + " " + UsersIPv4 + " " + UsersIPv6, cause: why},
		{name: "answers alone are let out", trap: policyDrop + "nft flush chain ip filter FORWARD; nft add rule ip filter FORWARD ct direction reply tcp dport 1024-65535 accept",
			failed: InstanceOutside + " " + InstanceDNS + " " + UsersIPv4, cause: []string{"policy drop"}},
		{name: "iptables-legacy, prerouting", need: "iptables-legacy", trap: "iptables-legacy -t mangle -A PREROUTING -m conntrack --ctdir REPLY -j DROP",
			failed: InstanceOutside + " " + HostInstance + " " + UsersIPv4, cause: []string{"--ctdir REPLY"}},
		{name: "iptables-legacy, forward", need: "iptables-legacy", trap: "iptables-legacy -A FORWARD -m conntrack --ctdir REPLY -j DROP", failed: InstanceOutside + " " + UsersIPv4,
			cause: []string{"--ctdir REPLY"}},
	} {
		t.Run(strings.NewReplacer(" ", "_", ",", "").Replace(tt.name), func(t *testing.T) { tt.run(t) })
	}
}

// TestLeaving: behind the balancer's translation users' packets have the instance's address
// and port.
func TestLeaving(t *testing.T) {
	chain := "nft add table inet f; nft 'add chain inet f F { type filter hook postrouting priority 50; }'; nft add rule inet f F "
	for _, tt := range []trap{
		{name: "translated", trap: chain + "ct status dnat drop", failed: UsersIPv4, cause: []string{"ct status dnat drop", "leaving (postrouting)"}},
		{name: "to instances", trap: chain + "oifname cpl0c0ffee0 drop", failed: InstanceCAS + " " + InstanceOutside + " " + HostInstance + " " + UsersIPv4, never: []string{`oifname "cpl0c0ffee0" accept`}},
		{name: "to the world", trap: chain + "oifname d0 drop", failed: InstanceOutside + " " + InstanceDNS + " " + UsersIPv4 + " " + UsersIPv6, never: []string{`oifname "d0" accept`}},
		{name: "iptables", need: "iptables-nft", trap: "iptables-nft -t mangle -A POSTROUTING -p tcp -j DROP",
			failed: InstanceCAS + " " + InstanceOutside + " " + HostInstance + " " + UsersIPv4, never: []string{" -i "}},
		{name: "iptables-legacy", need: "iptables-legacy", trap: "iptables-legacy -t mangle -A POSTROUTING -p tcp -j DROP",
			failed: InstanceCAS + " " + InstanceOutside + " " + HostInstance + " " + UsersIPv4, never: []string{" -i "}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) { tt.run(t) })
	}
}

// TestBeforeTheRule: a mend lets past the rule that stops a packet, and past none before
// it.
func TestBeforeTheRule(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	cfg := machine(t)
	run(t, inputDrop+"nft insert rule inet f in ip6 saddr 2001:db8:bad::/48 drop; nft add rule inet f in tcp dport 8000-9000 counter drop",
		"nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'; nft add rule ip filter FORWARD ip saddr 203.0.113.66 drop")
	for _, p := range check(t, cfg).Failed() {
		run(t, p.Mend...)
	}
	for chain, first := range map[string]string{"inet f in": "2001:db8:bad::/48 drop", "ip filter FORWARD": "203.0.113.66 drop"} {
		out, err := exec.Command("sh", "-c", "nft list chain "+chain+" | grep 'drop$\\|accept$'").Output()
		if rule, _, _ := strings.Cut(string(out), "\n"); err != nil || !strings.Contains(rule, first) {
			t.Errorf("%s: the mend comes before what has nothing to do with it: %s", chain, out)
		}
	}
	if r := check(t, cfg); len(r.Failed()) > 0 {
		t.Errorf("%v", r.Failed())
	}
}

// TestBeforeTheLegacyRule is the same of iptables-legacy, where each rule of the chain counts.
func TestBeforeTheLegacyRule(t *testing.T) {
	trap{
		need:   "iptables-legacy",
		trap:   "iptables-legacy -A FORWARD; iptables-legacy -A FORWARD -s 203.0.113.66 -j DROP; iptables-legacy -A FORWARD -j DROP",
		failed: InstanceOutside + " " + InstanceDNS + " " + UsersIPv4,
		cause:  []string{"-A FORWARD -j DROP"},
		never:  []string{"-I FORWARD -", "-I FORWARD 2"},
	}.run(t)
}

// TestHarmless: nothing is said of a firewall that lets through what is needed.
func TestHarmless(t *testing.T) {
	bogons := "{ 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24, 192.0.2.0/24, 192.168.0.0/16, 198.18.0.0/15, 198.51.100.0/24, 203.0.113.0/24, 224.0.0.0/3 }"
	for _, tt := range []trap{
		{name: "bogons", trap: `nft add table inet b; nft 'add chain inet b p { type filter hook prerouting priority -150; }'
			nft add rule inet b p iifname d0 ip saddr ` + bogons + ` drop
			nft add rule inet b p iifname d0 ip6 saddr '{ fc00::/7, 2001:db8::/32, 2001::/23, 3ffe::/16, fec0::/10, ff00::/8 }' drop`},
		{name: "docker", trap: policyDrop + `nft add rule ip filter FORWARD iifname cpl0c0ffee0 accept; nft add rule ip filter FORWARD oifname cpl0c0ffee0 ct status dnat accept
			nft add chain ip filter DOCKER; nft add rule ip filter FORWARD oifname docker0 jump DOCKER
			nft add rule ip filter DOCKER ip daddr 172.17.0.2 iifname != docker0 oifname docker0 tcp dport 80 accept
			nft add rule ip filter DOCKER iifname != docker0 oifname docker0 drop
			nft add table ip nat; nft 'add chain ip nat P { type nat hook prerouting priority -100; }'; nft add rule ip nat P fib daddr type local tcp dport 80 dnat to 172.17.0.2:80`},
		{name: "kube-proxy", trap: `nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; }'; nft 'add chain ip filter INPUT { type filter hook input priority 0; }'
			nft add chain ip filter KUBE-FIREWALL; nft add rule ip filter KUBE-FIREWALL meta mark and 0x8000 == 0x8000 drop
			nft add rule ip filter INPUT jump KUBE-FIREWALL; nft add rule ip filter FORWARD ct state invalid drop
			nft add table ip nat; nft 'add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }'
			nft add rule ip nat POSTROUTING meta mark and 0x4000 != 0x4000 return; nft add rule ip nat POSTROUTING masquerade`},
		{name: "small packets on the way, told", trap: "ip link set d0 mtu 1300"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) { tt.run(t) })
	}
}

// TestElsewhereLed: where another program gets what an instance sends, that is told; it
// may be as it shall be.
func TestElsewhereLed(t *testing.T) {
	proxy := `nft add table ip nat; nft 'add chain ip nat PREROUTING { type nat hook prerouting priority -100; }'
		nft add rule ip nat PREROUTING iifname cpl0c0ffee0 tcp dport 443 counter redirect to :`
	for _, tt := range []trap{
		{name: "to a proxy", trap: proxy + "3129", unknown: InstanceOutside, notes: []string{"another program answers", "redirect to :3129"}},
		{name: "to nobody", trap: proxy + "3130", failed: InstanceOutside, cause: []string{"nothing answers", "redirect to :3130"}},
		{name: "to a proxy, iptables-legacy", need: "iptables-legacy", trap: "iptables-legacy -t nat -A PREROUTING -i cpl0c0ffee0 -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 3129",
			unknown: InstanceOutside, notes: []string{"another program answers", "--to-ports 3129"}},
		{name: "to nobody, iptables-legacy", need: "iptables-legacy", trap: "iptables-legacy -t nat -A PREROUTING -p tcp -m tcp --dport 443 -j DNAT --to-destination 192.0.2.10:3130",
			failed: InstanceOutside, cause: []string{"nothing answers", "--to-destination 192.0.2.10:3130"}},
		{name: "users to nobody, iptables-legacy", need: "iptables-legacy", trap: "iptables-legacy -t nat -A PREROUTING -i d0 -p tcp -m tcp --dport 8000:9000 -j DNAT --to-destination 192.0.2.10:3130"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			if os.Getenv(inLab) != "" {
				run(t, "ip link set lo up")
				listens(t, ":3129")
			}
			tt.run(t)
		})
	}
}

// TestAllowLists: where a firewall lets through what its rules name, it isn't known
// whether more is needed, and the mend is for one destination or port.
func TestAllowLists(t *testing.T) {
	rest := `nft add rule ip filter FORWARD iifname cpl0c0ffee0 udp dport 53 accept; nft add rule ip filter FORWARD oifname cpl0c0ffee0 ct status dnat accept
		`
	legacy := `iptables-legacy -P FORWARD DROP; iptables-legacy -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
		iptables-legacy -A FORWARD -p udp --dport 53 -j ACCEPT
		`
	for _, tt := range []trap{
		{name: "ports of the web alone", trap: policyDrop + rest + "nft add rule ip filter FORWARD iifname cpl0c0ffee0 oifname d0 tcp dport '{ 80, 443 }' accept", unknown: InstanceOutside,
			notes: []string{"lets instances out to port 443, but not to each", "policy drop", "ip daddr HOST tcp dport PORT accept", "cupel check --to HOST:PORT"}},
		{name: "an address", trap: policyDrop + rest + "nft add rule ip filter FORWARD iifname cpl0c0ffee0 ip daddr 140.82.121.4 tcp dport 443 accept", unknown: InstanceOutside,
			notes: []string{"not known", "ip daddr 140.82.121.4 tcp dport 443", "HOST", "dport PORT", "policy drop", "cupel check --to HOST:PORT"}},
		{name: "a port", trap: policyDrop + rest + "nft add rule ip filter FORWARD tcp dport 8443 accept", unknown: InstanceOutside},
		{name: "in a chain", trap: policyDrop + rest + `nft add chain ip filter out; nft add rule ip filter FORWARD iifname cpl0c0ffee0 jump out
			nft add rule ip filter out ip daddr '{ 140.82.121.4, 140.82.121.5 }' counter accept`, unknown: InstanceOutside},
		{name: "iptables-legacy", need: "iptables-legacy", trap: legacy + "iptables-legacy -A FORWARD -d 140.82.121.4/32 -p tcp --dport 443 -j ACCEPT", unknown: InstanceOutside,
			notes: []string{"-d HOST", "--dport PORT"}},
		{name: "users who are forwarded", trap: policyDrop + "nft add rule ip filter FORWARD iifname cpl0c0ffee0 accept; nft add rule ip filter FORWARD tcp dport 8443 accept",
			failed: UsersIPv4},
		{name: "users' container ports", trap: policyDrop + "nft add rule ip filter FORWARD iifname cpl0c0ffee0 accept; nft add rule ip filter FORWARD oifname cpl0c0ffee0 tcp dport 8443 accept",
			unknown: UsersIPv4},
		{name: "for another device", trap: policyDrop + rest + "nft add rule ip filter FORWARD iifname docker0 ip daddr 140.82.121.4 tcp dport 443 accept", failed: InstanceOutside},
		{name: "for another network", trap: policyDrop + rest + "nft add rule ip filter FORWARD ip saddr 192.168.50.0/24 tcp dport 443 accept; nft add rule ip filter FORWARD ip daddr 10.244.0.0/16 accept", failed: InstanceOutside},
		{name: "for another network, iptables-legacy", need: "iptables-legacy", trap: legacy + "iptables-legacy -A FORWARD -s 192.168.50.0/24 -p tcp --dport 443 -j ACCEPT", failed: InstanceOutside},
		{name: "name servers alone", trap: policyDrop + rest, failed: InstanceOutside, never: []string{`oifname "cpl0c0ffee0" accept`}},
		{name: "nothing for instances", trap: policyDrop, failed: InstanceOutside + " " + InstanceDNS + " " + UsersIPv4,
			never: []string{`FORWARD accept`, `oifname "cpl0c0ffee0" accept`}},
		{name: "users' ports, and some clients'", trap: inputDrop + "nft add rule inet f in ip6 saddr 2001:db8:2::/48 tcp dport 22 accept; nft add rule inet f in tcp dport '{ 443, 18765 }' accept", unknown: UsersIPv6,
			notes: []string{"as by \"tcp dport { 443, 18765 }", "tcp dport 8082 accept"}, never: []string{"CLIENTS"}},
		{name: "users' ports", trap: inputDrop + "nft add rule inet f in tcp dport '{ 22, 443, 18765 }' accept", unknown: UsersIPv6,
			notes: []string{"opens ports one by one", "tcp dport 8082 accept"}},
	} {
		t.Run(strings.NewReplacer(" ", "_", "'", "").Replace(tt.name), func(t *testing.T) { tt.run(t) })
	}
}

// TestElsewhere: what stands in the way at other places of the kernel is named too, or
// at least where the packets were seen last.
func TestElsewhere(t *testing.T) {
	for _, tt := range []trap{
		{name: "ingress of the uplink", trap: `nft add table netdev f; nft 'add chain netdev f i { type filter hook ingress device "d0" priority 0; }'; nft add rule netdev f i ip protocol tcp drop`,
			failed: InstanceOutside + " " + UsersIPv4, cause: []string{"netdev f i", "arriving (ingress)"}},
		{name: "egress of the uplink", trap: `nft add table netdev f; nft 'add chain netdev f o { type filter hook egress device "d0" priority 0; }'; nft add rule netdev f o ip protocol tcp drop`,
			failed: InstanceOutside + " " + UsersIPv4, cause: []string{"netdev f o", "leaving (egress)"}},
		{name: "packets too large", trap: `ip link set d0 mtu 1300; nft add table ip f; nft 'add chain ip f o { type filter hook output priority 0; }'
			nft add rule ip f o ip protocol icmp drop`, failed: InstanceOutside + " " + UsersIPv4, cause: []string{"ip f o", "output"}},
		{name: "other ports of this machine", trap: inputDrop + "nft add rule inet f in iifname cpl0c0ffee0 tcp dport 18765 accept; nft add rule inet f in iifname d0 tcp dport 8082 accept",
			notes: []string{"it doesn't reach each other port of this machine", "policy drop", "cupel check --to host.cupel.internal:PORT", `iifname "cpl0c0ffee0" tcp dport PORT accept`}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) { tt.run(t) })
	}
}

// Once users' packets showed the instance where this machine is, it need not ask: so
// what else fails beside the CAS depends on who comes first.
func TestNeighboursBlocked(t *testing.T) {
	for family, rule := range map[string]string{"arp": "drop", "bridge": "ether type arp drop"} {
		t.Run(family, func(t *testing.T) {
			if !onOwnMachine(t) {
				return
			}
			cfg := machine(t)
			chain := family + " f i"
			run(t, "nft add table "+family+" f; nft 'add chain "+chain+" { type filter hook input priority 0; }'; nft add rule "+chain+" "+rule)
			failed := check(t, cfg).Failed()
			if len(failed) == 0 || failed[0].Name != InstanceCAS || !strings.Contains(failed[0].Cause, chain) {
				t.Fatalf("%v", failed)
			}
			run(t, failed[0].Mend...)
			if r := check(t, cfg); !r.OK {
				t.Error("the mend doesn't do")
			}
		})
	}
}

// TestClientLists: whom a list of addresses keeps out may be meant to be kept out, and no
// mend lets everybody in.
func TestClientLists(t *testing.T) {
	v6 := `nft add table ip6 f; nft 'add chain ip6 f i { type filter hook input priority 0; policy drop; }'; nft add rule ip6 f i meta l4proto ipv6-icmp accept
		nft add rule ip6 f i ip6 saddr `
	for _, tt := range []trap{
		{name: "docker", need: "iptables-nft", trap: "iptables-nft -N DOCKER-USER; iptables-nft -I FORWARD -j DOCKER-USER; iptables-nft -A DOCKER-USER -i d0 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; iptables-nft -A DOCKER-USER -i d0 ! -s 203.0.113.0/24 -j DROP", unknown: UsersIPv4},
		{name: "forward", trap: policyDrop + "nft add rule ip filter FORWARD iifname cpl0c0ffee0 accept; nft add rule ip filter FORWARD ip saddr 203.0.113.0/24 ct status dnat accept", unknown: UsersIPv4,
			notes: []string{"ip saddr 203.0.113.0/24 ct status dnat accept", "by their addresses"}},
		{name: "input", trap: v6 + "2001:db8:2::/48 tcp dport 8080-8085 accept", unknown: UsersIPv6},
		{name: "input of the port", trap: v6 + "2001:db8:2::/48 tcp dport 8082 accept", unknown: UsersIPv6},
		{name: "prerouting", trap: raw + "nft add rule ip r P ip saddr != '{ 203.0.113.5, 203.0.113.9, 10.88.7.0/24 }' tcp dport 8082 drop", unknown: UsersIPv4},
		{name: "ssh alone", trap: v6 + "2001:db8:2::/48 tcp dport 22 accept", unknown: UsersIPv6, notes: []string{"opens ports one by one, to clients by their addresses", "ip6 saddr CLIENTS accept"}},
	} {
		if tt.name != "ssh alone" {
			tt.never = []string{" "}
		}
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) { tt.run(t) })
	}
}

// TestForOne: the mend of what isn't known to be needed is for what a person names alone.
func TestForOne(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	cfg := machine(t)
	run(t, policyDrop+`nft add rule ip filter FORWARD oifname cpl0c0ffee0 ct status dnat accept
		nft add rule ip filter FORWARD iifname cpl0c0ffee0 udp dport 53 accept; nft add rule ip filter FORWARD iifname cpl0c0ffee0 tcp dport '{ 80, 443 }' accept
		nft add table ip6 f; nft 'add chain ip6 f i { type filter hook input priority 0; policy drop; }'; nft add rule ip6 f i meta l4proto ipv6-icmp accept
		nft add rule ip6 f i ip6 saddr 2001:db8:2::/48 tcp dport 22 accept`)
	asked := func() (outside, users, asked, other Probe) {
		cfg.To = []Target{{"203.0.113.9:5432", netip.MustParseAddrPort("203.0.113.9:5432")}, {"203.0.113.8:5432", netip.MustParseAddrPort("203.0.113.8:5432")}}
		r := check(t, cfg)
		return r.Probes[1], r.Probes[5], r.Probes[6], r.Probes[7]
	}
	outside, users, one, _ := asked()
	if !outside.Unknown || !users.Unknown || !strings.Contains(one.Cause, "policy drop") {
		t.Fatalf("%v\n%v\n%v", outside, users, one)
	}
	for clients, unknown := range map[string]bool{"2001:db8:3::1": true, "2620:4f:8000::/48": false} {
		run(t, strings.Split(strings.NewReplacer("HOST", "203.0.113.9", " PORT", " 5432", "CLIENTS", clients).Replace(strings.Join(append(outside.Mend, users.Mend...), "\n")), "\n")...)
		now, users, one, other := asked()
		if !now.Unknown || users.Unknown != unknown || !strings.Contains(one.Cause, "nothing of this machine stops it") || !strings.Contains(other.Cause, "policy drop") {
			t.Errorf("%v\n%v\n%v\n%v", now, users, one, other)
		}
		if !unknown {
			break
		}
	}
}

// TestHostToInstance: without its way to instances none is ever healthy, so this machine's
// own is tried too, to each port of theirs and to all of their network.
func TestHostToInstance(t *testing.T) {
	vpn := `ip addr add 10.8.0.2/24 dev wg0; ip link set wg0 up
		`
	output := `nft add table inet o; nft 'add chain inet o o { type filter hook output priority 0; policy drop; }'
		nft add rule inet o o oifname lo accept; nft add rule inet o o ct state established,related accept
		nft add rule inet o o icmpv6 type nd-neighbor-advert accept; nft add rule inet o o udp dport 53 accept; nft add rule inet o o tcp dport '{ 80, 443 }' accept
		`
	for _, tt := range []trap{
		{name: "output", trap: output, failed: HostInstance, cause: []string{"policy drop", "inet o o", "output"}, notes: []string{"at port 8080"}, never: []string{"o o accept", `oifname "cpl0c0ffee0" accept`}},
		{name: "iptables-legacy", need: "iptables-legacy", trap: "iptables-legacy -A OUTPUT -p tcp --dport 8080 -j DROP", failed: HostInstance, cause: []string{"--dport 8080", "output"}},
		{name: "half of the network", tun: "wg0", trap: vpn + "ip route add 10.88.7.0/25 dev wg0", failed: HostInstance, cause: []string{"10.88.7.0/25 dev wg0", "a part of the instances' network 10.88.7.0/24"}},
		{name: "single addresses", tun: "wg0", trap: vpn + "ip route add 10.88.7.17 dev wg0; ip route add blackhole 10.88.7.18", failed: HostInstance, cause: []string{"10.88.7.17/32 dev wg0; the route blackhole 10.88.7.18/32"}},
		{name: "in a table of a VPN's", tun: "wg0", trap: vpn + "ip route add 10.88.7.0/26 dev wg0 table 52; ip rule add lookup 52 priority 5270", failed: HostInstance, cause: []string{"10.88.7.0/26 dev wg0", "lookup 52"}},
		{name: "the other half", tun: "wg0", trap: vpn + "ip route add 10.88.7.128/25 dev wg0", failed: InstanceCAS + " " + InstanceOutside + " " + InstanceDNS + " " + HostInstance + " " + UsersIPv4, cause: []string{"10.88.7.128/25 dev wg0"}},
		{name: "a table that nobody looks into", tun: "wg0", trap: vpn + "ip route add 10.88.7.0/25 dev wg0 table 52"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) { tt.run(t) })
	}
}

// Each port that apps listen on is tried.
func TestHostToPorts(t *testing.T) {
	if !onOwnMachine(t) {
		return
	}
	cfg := machine(t)
	cfg.AppPorts = []uint16{80, 3000}
	run(t, "nft add table inet o; nft 'add chain inet o o { type filter hook output priority 0; }'; nft add rule inet o o tcp dport 3000 drop")
	failed := check(t, cfg).Failed()
	if len(failed) != 1 || failed[0].Name != HostInstance || !strings.Contains(failed[0].What, "at ports 80, 3000") || !strings.Contains(failed[0].Mend[0], "tcp dport 3000 accept") {
		t.Fatalf("%v", failed)
	}
	run(t, failed[0].Mend...)
	if r := check(t, cfg); !r.OK {
		t.Error("the mend doesn't do")
	}
}

// TestUplinkDown: that a device is down is said, whatever else fails with it.
func TestUplinkDown(t *testing.T) {
	trap{trap: "ip link set d0 down", failed: InstanceOutside + " " + InstanceDNS + " " + UsersIPv4, cause: []string{"d0", "is down"}, unknown: UsersIPv6,
		notes: []string{"no IPv6 address"}, mend: "ip link set d0 up; ip route add default via 192.0.2.1"}.run(t)
}
