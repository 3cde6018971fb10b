package netcheck

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestWhatLetsInstancesOut: whether a rule lets something of an instance's out is read
// from its devices, addresses and states. One that can't is no reason to call a failure
// not known.
func TestWhatLetsInstancesOut(t *testing.T) {
	l := &lab{Config: Config{Bridge: "cpl12345678", Subnet: netip.MustParsePrefix("10.88.7.0/24")}}
	l.v4.dev = &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}
	p := &probe{Probe: Probe{Name: InstanceOutside}}
	for rule, lets := range map[string]bool{
		"tcp dport 443 accept": true,
		`iifname "cpl12345678" ip daddr 10.1.2.3 tcp dport 5432 accept`:                             true,
		"ip saddr 10.88.7.0/24 ip daddr 10.1.2.3 accept":                                            true,
		"ip saddr 10.88.7.9 tcp dport 443 accept":                                                   true,
		"ip saddr 10.0.0.0/8 tcp dport 443 accept":                                                  true,
		"ip saddr != 192.168.50.0/24 tcp dport 443 accept":                                          true,
		"ip saddr { 10.88.7.4-10.88.7.9, 192.168.50.0/24 } tcp dport 443 accept":                    true,
		"ip saddr @trusted tcp dport 443 accept":                                                    true,
		"ip daddr @allowed accept":                                                                  true,
		"ip daddr { 10.0.0.5, 140.82.121.4 } accept":                                                true,
		"ip daddr != 10.0.0.0/8 accept":                                                             true,
		"ct state established,new tcp dport 443 accept":                                             true,
		"ct state != invalid tcp dport 443 accept":                                                  true,
		"-A FORWARD -s 10.88.0.0/16 -p tcp -m tcp --dport 443 -j ACCEPT":                            true,
		"-A FORWARD ! -s 192.168.50.0/24 -p tcp -m tcp --dport 443 -j ACCEPT":                       true,
		"-A FORWARD ! -i docker0 -p tcp -m tcp --dport 443 -j ACCEPT":                               true,
		"-A FORWARD -d 140.82.121.4/32 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT":            true,
		"-A FORWARD -p tcp -m set --match-set trusted src -m tcp --dport 443 -j ACCEPT":             true,
		"-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT":       false,
		"-A FORWARD -s 192.168.50.0/24 -p tcp -m tcp --dport 443 -j ACCEPT":                         false,
		"ip saddr 192.168.50.0/24 tcp dport 443 accept":                                             false,
		"ip saddr { 10.1.1.1-10.1.1.9, 192.168.50.0/24 } tcp dport 443 accept":                      false,
		"ip saddr != 10.88.0.0/16 tcp dport 443 accept":                                             false,
		"-A FORWARD ! -s 10.0.0.0/8 -p tcp -m tcp --dport 443 -j ACCEPT":                            false,
		"ip daddr 172.17.0.2 tcp dport 80 accept":                                                   false,
		"-A FORWARD -d 100.64.0.0/10 -j ACCEPT":                                                     false,
		"-A FORWARD -d 10.88.7.0/24 -j ACCEPT":                                                      false,
		`iifname "cpl12345678" ip daddr 10.88.7.0/24 accept`:                                        false,
		"ip6 daddr 2001:db8::/32 tcp dport 443 accept":                                              false,
		"meta nfproto ipv6 tcp dport 443 accept":                                                    false,
		"ct state established,related ip daddr 140.82.121.4 accept":                                 false,
		"ct direction reply tcp dport 443 accept":                                                   false,
		"-A FORWARD -p tcp -m tcp --dport 443 -m conntrack --ctdir REPLY -j ACCEPT":                 false,
		"ct state { established, related } tcp dport 443 accept":                                    false,
		"-A FORWARD -d 140.82.121.4/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT":        false,
		"-A FORWARD -i docker0 -p tcp -m tcp --dport 443 -j ACCEPT":                                 false,
		"-A FORWARD ! -i cpl12345678 -p tcp -m tcp --dport 443 -j ACCEPT":                           false,
		`iifname "virbr0" ip saddr 192.168.122.0/24 tcp dport 443 counter packets 0 bytes 0 accept`: false,
	} {
		if got := l.letsOne(p, stop{at: hook{name: "forward"}, base: "f", chains: map[string][]string{"f": {rule}}}); (got != "") != lets {
			t.Errorf("%q lets instances out: %t, want %t", rule, got != "", lets)
		}
	}
}
