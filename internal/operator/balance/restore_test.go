package balance

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/operator/manager"
)

// Whatever another program takes away is noticed by the next look, told, and written
// anew; clients stay where they are, as far as the kernel knows them.
func TestRestore(t *testing.T) {
	cases := []struct{ name, script, told string }{
		{"table", "delete table inet cupel_test", "deleted the nftables table inet cupel_test"},
		{"ruleset", "flush ruleset", "deleted the nftables table inet cupel_test"},
		{"rules", "flush table inet cupel_test", "or a part of it"},
		{"masquerading", "flush chain inet cupel_test postrouting", "or a part of it"},
		{"a port", "delete element inet cupel_test ports { 8080 }", "or a part of it"},
		{"ports", "flush map inet cupel_test ports", "or a part of it"},
		{"a chain's rules", "flush chain inet cupel_test svc_8080", "or a part of it"},
		{"who was seen", "flush chain inet cupel_test forward", "or a part of it"},
		{"a foreign rule", "insert rule inet cupel_test prerouting tcp dport 8080 accept", "or a part of it"},
		{"a foreign chain", "add chain inet cupel_test mine", "or a part of it"},
		{"switched off", "table inet cupel_test { flags dormant; }", "or a part of it"},
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			check(t, netlink.ConntrackTableFlush(netlink.ConntrackTable)) // what earlier tests left
			b := open(t)
			apply(t, b, l.instances(3)...)
			const n = 12
			first4, first6 := l.askAll(t, n, client4, public4), l.askAll(t, n, client6, public6)
			if what, err := b.Restore(t.Context()); what != "" || err != nil {
				t.Fatalf("nothing happened: %q, %v", what, err)
			}
			nft(t, tt.script)
			what, err := b.Restore(t.Context())
			if err != nil || !strings.Contains(what, tt.told) {
				t.Errorf("told %q, %v; want %q", what, err, tt.told)
			}
			same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
			if diff := cmp.Diff(first4, l.askAll(t, n, client4, public4), same); diff != "" {
				t.Errorf("IPv4 clients moved:\n%s", diff)
			}
			if diff := cmp.Diff(first6, l.askAll(t, n, client6, public6), same); diff != "" {
				t.Errorf("IPv6 clients moved:\n%s", diff)
			}
			if what, err := b.Restore(t.Context()); what != "" || err != nil {
				t.Errorf("once more: %q, %v", what, err)
			}
		})
	}
}

// TestPortsThatServe: what tries a port from outside takes one behind which somebody
// is, and takes no silence of an app that still starts for a firewall's.
func TestPortsThatServe(t *testing.T) {
	l := newLab(t)
	b := open(t)
	all := l.instances(2)
	for _, n := range []int{1, 0, 2} {
		apply(t, b, all[:n]...)
		ports, err := Ports("cupel_test")
		if want := n > 0; err != nil || slices.Contains(ports, 8080) != want {
			t.Errorf("%d instances: ports %v, %v", n, ports, err)
		}
	}
}

// Before the first state was applied what a predecessor left stays, and masquerading
// is there all the same.
func TestRestoreBeforeApply(t *testing.T) {
	l := newLab(t)
	is := l.instances(2)
	b := open(t)
	apply(t, b, is...)
	check(t, b.Close())
	b = open(t)
	if what, err := b.Restore(t.Context()); what != "" || err != nil {
		t.Errorf("a predecessor's table: %q, %v", what, err)
	}
	ask(t, l.outside, client4(1), public4)
	nft(t, "flush ruleset")
	if what, err := b.Restore(t.Context()); what == "" || err != nil {
		t.Errorf("no table: %q, %v", what, err)
	}
	have, err := b.kernel.read()
	check(t, err)
	if !have.serves(nil) {
		t.Errorf("%+v", have)
	}
}

// A flood of bare SYNs, in anybody's name, takes no client's place, and the place of
// none that comes later.
func TestFloodOfSYNs(t *testing.T) {
	l := newLab(t)
	const most = 50
	b := open(t, func(c *Config) { c.MaxClients = most })
	apply(t, b, l.instances(2)...)
	before := l.askAll(t, 20, client4, public4)

	var out []byte
	var err error
	l.outside.Do(func() {
		// Without this a client of the same kernel has its answer at once.
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(`table ip deaf { chain in { type filter hook prerouting priority -300; ip daddr 10.1.4.0/22 drop; }; }`)
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l.outside.Do(func() {
		for i := range 1000 {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			check(nil, err)
			check(nil, unix.Bind(fd, &unix.SockaddrInet4{Addr: client4(1024 + i).As4()}))
			if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: public4.As4(), Port: port}); err != unix.EINPROGRESS {
				check(nil, err)
			}
			check(nil, unix.Close(fd))
		}
	})
	late := l.askAll(t, 20, func(i int) netip.Addr { return client4(5000 + i) }, public4)
	all := map[netip.Addr]bool{}
	for _, e := range b.applied[0].endpoints {
		clients, err := b.kernel.clients(e.set4)
		check(t, err)
		for _, c := range clients {
			all[c] = true
		}
		asked, err := b.kernel.clients(e.new4)
		check(t, err)
		if len(asked) > most {
			t.Errorf("%d are remembered that only asked, want %d at most", len(asked), most)
		}
	}
	for _, clients := range []map[netip.Addr]string{before, late} {
		for c, name := range clients {
			if !all[c] {
				t.Errorf("%s is not remembered", c)
			}
			if got := ask(t, l.outside, c, public4); got != name {
				t.Errorf("%s moved from %s to %s", c, name, got)
			}
		}
	}
	if want := len(before) + len(late); len(all) != want {
		t.Errorf("%d clients are remembered, want %d", len(all), want)
	}
}

// A thousand apps are programmed, and one more costs what it costs alone.
func TestManyApps(t *testing.T) {
	if os.Getenv(inLab) != "" {
		var limit unix.Rlimit
		check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
		if limit.Cur < 2000 {
			limit.Cur = min(limit.Max, 4000)
			check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
		}
	}
	newLab(t)
	b := open(t)
	var fs []manager.Frontend
	for i := range 1001 {
		fs = append(fs, manager.Frontend{App: fmt.Sprint("app", i), Port: uint16(20000 + i), Endpoints: []manager.Endpoint{
			{Instance: "a", IP: netip.AddrFrom4([4]byte{10, 88, 7, byte(2 + i%200)}), Port: 8080},
			{Instance: "b", IP: netip.AddrFrom4([4]byte{10, 88, 7, byte(3 + i%200)}), Port: 8080},
		}})
	}
	served := func(want int) {
		t.Helper()
		have, err := b.kernel.read()
		check(t, err)
		if !have.serves(b.applied) || len(b.applied) != want {
			t.Errorf("the kernel doesn't serve the %d apps", want)
		}
	}
	check(t, b.Apply(t.Context(), fs[:1]))
	served(1)
	check(t, b.Apply(t.Context(), nil))
	alone := b.kernel.sent
	check(t, b.Apply(t.Context(), fs[:1]))
	alone = b.kernel.sent - alone
	check(t, b.Apply(t.Context(), fs[:1000]))
	served(1000)

	sent := b.kernel.sent
	check(t, b.Apply(t.Context(), fs))
	if more := b.kernel.sent - sent; more > alone || more == 0 {
		t.Errorf("one app more took %d messages, alone it takes %d", more, alone)
	}
	served(1001)
	sent = b.kernel.sent
	check(t, b.Apply(t.Context(), fs[1:]))
	if less := b.kernel.sent - sent; less > alone || less == 0 {
		t.Errorf("one app less took %d messages, one takes %d", less, alone)
	}
	served(1000)
	nft(t, "flush ruleset")
	if what, err := b.Restore(t.Context()); what == "" || err != nil {
		t.Errorf("restored: %q, %v", what, err)
	}
	served(1000)
	check(t, b.Apply(t.Context(), nil))
	served(0)
}
