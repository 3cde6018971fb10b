package daemon

import (
	"net/netip"
	"testing"

	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/client"
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

// TestMoveEndpoint: an address that comes after the start is written down, and stays
// while there is none.
func TestMoveEndpoint(t *testing.T) {
	l := layout{dir: t.TempDir()}
	e := managerapi.Endpoint{Version: managerapi.Version, Address: "127.0.0.1:5000"}
	for _, tt := range []struct {
		outside, want string
		moved         bool
	}{
		{"", "", false}, {"192.0.2.7", "192.0.2.7", true}, {"192.0.2.7", "192.0.2.7", false}, {"", "192.0.2.7", false}, {"192.0.2.8", "192.0.2.8", true},
	} {
		moved, err := l.moveEndpoint(&e, tt.outside)
		if err != nil || moved != tt.moved || e.Outside != tt.want {
			t.Errorf("%q: %v, %v, %+v", tt.outside, moved, err, e)
		}
		if read, err := client.ReadEndpoint(l.dir); moved && (err != nil || read.Outside != tt.want) {
			t.Errorf("%q: written %+v, %v", tt.outside, read, err)
		}
	}
}
