package netcheck

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// traceText is a shortened trace of a machine with a trap of each kind.
const traceText = `trace id 1 inet cupel_0c0ffee0_check arriving packet: iif "cpl0c0ffee0" ip saddr 10.88.7.254 ip daddr 192.175.48.82 tcp sport 57486 tcp dport 443 tcp flags == syn
trace id 1 inet cupel_0c0ffee0_check arriving policy accept
trace id 1 ip r P packet: iif "cpl0c0ffee0" ip saddr 10.88.7.254 tcp sport 57486 tcp dport 443
trace id 1 ip r P rule ip saddr 10.88.7.0/24 counter packets 3 bytes 180 notrack # handle 4 (verdict continue)
trace id 1 ip nat PREROUTING rule tcp dport 443 counter packets 1 bytes 60 redirect to :3129 (verdict accept)
trace id 2 inet cupel_0c0ffee0_check forwarded packet: iif "cpl0c0ffee0" oif "d0" ip saddr 10.88.7.254 tcp sport 57486 tcp dport 443
trace id 2 ip f o packet: iif "cpl0c0ffee0" oif "d0" ip saddr 10.88.7.254 tcp sport 57486 tcp dport 443
trace id 2 ip f no rule counter packets 9 bytes 540 drop # handle 7 (verdict drop)
trace id 3 inet cupel_0c0ffee0_check leaving packet: oif "d0" ip saddr 192.0.2.10 udp sport 57486 udp dport 53
trace id 4 inet f in policy drop
trace id 5 ip f o packet: iif "d0" oif "cpl0c0ffee0" ip saddr 192.0.2.7 ip daddr 10.88.7.254 tcp sport 8443 tcp dport 57400
trace id 5 ip f o rule ct state invalid drop # handle 5 (verdict drop)
`

// What the kernel tells is read without what changes with each packet, and the last place
// is the probe's own.
func TestParseTrace(t *testing.T) {
	out, forth := packet{iif: "cpl0c0ffee0", proto: "tcp", sport: "57486", dport: "443"}, packet{iif: "cpl0c0ffee0", oif: "d0", proto: "tcp", sport: "57486", dport: "443"}
	want := traced{
		drops: []drop{
			{packet: forth, family: "ip", table: "f", chain: "no", base: "o", rule: "drop", handle: "7"},
			{family: "inet", table: "f", chain: "in", base: "in"},
		},
		untracked: []drop{{packet: out, family: "ip", table: "r", chain: "P", base: "P", rule: "ip saddr 10.88.7.0/24 notrack", handle: "4"}},
		elsewhere: []drop{{family: "ip", table: "nat", chain: "PREROUTING", base: "PREROUTING", rule: "tcp dport 443 redirect to :3129"}},
		last:      sight{packet{oif: "d0", iif: "cpl0c0ffee0", proto: "tcp", sport: "57486", dport: "443"}, "forwarded"},
	}
	if diff := cmp.Diff(want, parseTrace(traceText, testID, 443), cmp.AllowUnexported(traced{}, drop{}, packet{}, sight{})); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseTrace(f *testing.F) {
	f.Add(traceText)
	f.Fuzz(func(_ *testing.T, text string) { parseTrace(text, testID, 443) }) // it doesn't panic
}
