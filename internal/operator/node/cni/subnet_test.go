package cni

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/sysctl"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/testing/netlab"
)

func nets(list ...string) []usedNetwork {
	var out []usedNetwork
	for _, s := range list {
		out = append(out, usedNetwork{netip.MustParsePrefix(s), s})
	}
	return out
}

func TestChoose(t *testing.T) {
	first, err := choose("0123abcd", usedNetworks{})
	if err != nil || !netip.MustParsePrefix("10.88.0.0/16").Overlaps(first) {
		t.Fatal(first, err)
	}
	cases := []struct {
		name string
		m    usedNetworks
		in   string // network that the choice lies in
		same bool   // as on a machine without any
	}{
		{"again", usedNetworks{}, "10.88.0.0/16", true},
		{"taken itself", usedNetworks{own: nets(first.String())}, "10.88.0.0/16", false},
		{"half of it on a device", usedNetworks{own: nets("10.88.0.0/17")}, "10.88.128.0/17", false},
		{"podman", usedNetworks{own: nets("10.88.0.0/16")}, "10.188.0.0/16", false},
		{"a wide network on a device", usedNetworks{own: nets("10.0.0.0/8")}, "172.29.0.0/16", false},
		{"a VPN's default in halves", usedNetworks{routed: nets("0.0.0.0/1", "128.0.0.0/1")}, "10.88.0.0/16", true},
		{"a wide route by a gateway", usedNetworks{routed: nets("10.0.0.0/8")}, "10.88.0.0/16", true},
		{"that route by a gateway", usedNetworks{routed: nets(first.String())}, "10.88.0.0/16", false},
		{"a narrower route by a gateway", usedNetworks{routed: nets(first.Addr().String() + "/26")}, "10.88.0.0/16", false},
		{"a tunnel", usedNetworks{tunnel: nets("10.0.0.0/8")}, "172.29.0.0/16", false},
		{"a tunnel that has everything", usedNetworks{tunnel: nets("0.0.0.0/1", "128.0.0.0/1")}, "10.88.0.0/16", true},
	}
	for _, tt := range cases {
		p, err := choose("0123abcd", tt.m)
		if err != nil || !netip.MustParsePrefix(tt.in).Overlaps(p) || (p == first) != tt.same {
			t.Errorf("%s: %v, %v; want one in %s", tt.name, p, err, tt.in)
		}
	}
	_, err = choose("0123abcd", usedNetworks{own: nets("0.0.0.0/0")})
	if p := problem.From(err); err == nil || p.Rule != "no_subnet" || !strings.Contains(p.Mend, "--subnet") {
		t.Errorf("all taken: %v", err)
	}
}

func TestParseSubnet(t *testing.T) {
	for _, good := range []string{"10.88.7.0/24", "172.16.0.0/12", "192.168.0.16/28", "100.64.0.0/16"} {
		if p, err := ParseSubnet(good); err != nil || p.String() != good {
			t.Errorf("%s: %v, %v", good, p, err)
		}
	}
	for _, bad := range []string{"", "x", "10.88.7.0", "10.88.7.1/24", "10.0.0.0/8", "10.88.7.0/29", "fd00::/64", "8.8.8.0/24", "127.0.0.0/24", "169.254.0.0/16"} {
		if p, err := ParseSubnet(bad); problem.From(err) == nil || problem.From(err).Rule != "subnet" {
			t.Errorf("%q: %v, %v", bad, p, err)
		}
	}
}

func TestSpare(t *testing.T) {
	for subnet, want := range map[string]string{"10.88.7.0/24": "10.88.7.254", "192.168.0.16/28": "192.168.0.30", "172.16.0.0/12": "172.31.255.254"} {
		n := &Network{subnet: netip.MustParsePrefix(subnet)}
		if got := n.Spare().String(); got != want {
			t.Errorf("%s: %s, want %s", subnet, got, want)
		}
	}
}

// TestDamagedSubnet: without a bridge nobody runs in a network, and another is chosen.
func TestDamagedSubnet(t *testing.T) {
	n := &Network{cfg: Config{Dir: t.TempDir(), ID: "0c0ffee2"}}
	for _, bad := range []string{"", "x", "10.0.0.0/8", "10.88.0.1/24", "fd00::/64"} {
		if err := os.WriteFile(n.subnetFile(), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := n.keepSubnet()
		if err != nil || !possible(p) || p.Masked() != p {
			t.Errorf("%q: %v, %v", bad, p, err)
		}
		if kept, err := n.keptSubnet(); err != nil || kept != p {
			t.Errorf("%q: %v is kept, %v; want %v", bad, kept, err, p)
		}
	}
}

// TestSubnetOfAMachine: what a machine has decides, and what was asked for or kept.
func TestSubnetOfAMachine(t *testing.T) {
	need.Root(t)
	need.Programs(t, "ip")
	need.File(t, filepath.Join(PluginDir, "bridge"))
	s := netlab.New(t)
	sh := func(command string) {
		t.Helper()
		var out []byte
		var err error
		s.Do(func() { out, err = exec.Command("sh", "-ec", command).CombinedOutput() })
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	dir := t.TempDir()
	open := func(subnet string) (n *Network, err error) {
		cfg := Config{Dir: filepath.Join(dir, "cni"), ID: "0c0ffee1", PluginDir: PluginDir,
			Sysctl: sysctl.Keeper{Dir: filepath.Join(dir, "sysctl"), Proc: "/proc/sys"}}
		if subnet != "" {
			cfg.Subnet = netip.MustParsePrefix(subnet)
		}
		s.Do(func() { n, err = Open(cfg) })
		return n, err
	}
	closing := func(n *Network) {
		t.Helper()
		var err error
		s.Do(func() { err = n.Close() })
		if err != nil {
			t.Fatal(err)
		}
	}
	rule := func(err error, want string) {
		t.Helper()
		if p := problem.From(err); err == nil || string(p.Rule) != want || p.Mend == "" {
			t.Errorf("%v, want %s with a mend", err, want)
		}
	}

	sh(`ip link add d0 type veth peer name d1; ip addr add 192.0.2.10/24 dev d0; ip link set d0 up; ip link set d1 up
		for net in 0.0.0.0/1 128.0.0.0/1 10.0.0.0/8; do ip route add $net via 192.0.2.1; done`)
	n, err := open("")
	if err != nil || !netip.MustParsePrefix("10.88.0.0/16").Overlaps(n.Subnet()) {
		t.Fatalf("behind a VPN's gateway: %v, %v", n, err)
	}
	kept := n.Subnet()
	if n, err = open(""); err != nil || n.Subnet() != kept {
		t.Errorf("again: %v, %v; want %v", n, err, kept)
	}

	// A file that a power cut left empty, or that is gone, stops nothing: the bridge tells.
	for _, text := range []string{"", "10.88.1", "10.0.0.0/8\n"} {
		if err := os.WriteFile(n.subnetFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err = open(""); err != nil || n.Subnet() != kept {
			t.Errorf("damaged (%q): %v, %v; want %v", text, n, err, kept)
		}
		if b, err := os.ReadFile(n.subnetFile()); err != nil || string(b) != kept.String()+"\n" {
			t.Errorf("then written %q, %v", b, err)
		}
	}

	// With an instance on it the network stays, whatever comes; then it moves.
	sh("ip link add i0 type veth peer name i1; ip link set i0 master " + n.Bridge())
	sh("ip link add podman0 type bridge; ip addr add 10.88.0.1/16 dev podman0; ip link set podman0 up")
	if n, err = open(""); err != nil || n.Subnet() != kept {
		t.Errorf("with an instance: %v, %v; want %v", n, err, kept)
	}
	_, err = open("172.30.1.0/24")
	rule(err, "subnet_in_use")
	sh("ip link del i0")
	closing(n)
	if n, err = open(""); err != nil || netip.MustParsePrefix("10.88.0.0/16").Overlaps(n.Subnet()) {
		t.Fatalf("beside podman: %v, %v", n, err)
	}
	closing(n)

	// What is asked for is taken, and kept.
	_, err = open("10.88.7.0/24")
	rule(err, "subnet_taken")
	if p := problem.From(err); !strings.Contains(p.Actual, "podman0") || !strings.Contains(p.Mend, "--subnet ") {
		t.Errorf("%v", err)
	}
	for _, asked := range []string{"172.30.1.0/24", "", "192.168.77.0/26", ""} {
		if n, err = open(asked); err != nil {
			t.Fatal(asked, err)
		}
		if asked != "" {
			kept = netip.MustParsePrefix(asked)
		}
		if n.Subnet() != kept {
			t.Errorf("asked for %q: %v, want %v", asked, n.Subnet(), kept)
		}
		closing(n)
	}
}
