package daemon

import (
	"net/netip"
	"testing"
)

// TestReachable: of a listener that is open to all an address is shown that others can
// use, of any other its own.
func TestReachable(t *testing.T) {
	for listens, local := range map[string]string{"127.0.0.1:5000": "127.0.0.1:5000", "192.0.2.7:5000": "192.0.2.7:5000", "nonsense": "127.0.0.1:1"} {
		if got := reachable(listens, local); got != local {
			t.Errorf("%s: %s, want %s", listens, got, local)
		}
	}
	for _, listens := range []string{"0.0.0.0:5000", "[::]:5000"} {
		got := reachable(listens, "no way out")
		if got == "no way out" {
			continue // this machine has none
		}
		if ap, err := netip.ParseAddrPort(got); err != nil || ap.Port() != 5000 || ap.Addr().IsLoopback() || ap.Addr().IsUnspecified() {
			t.Errorf("%s: %s", listens, got)
		}
	}
}
