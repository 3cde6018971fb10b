package daemon

import (
	"net"
	"testing"

	"cupel.dev/cupel/internal/operator/node"
)

// TestAsInstances: the name by which instances call this machine means it to the
// manager too.
func TestAsInstances(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, host := range []string{node.HostName, "127.0.0.1"} {
		conn, err := asInstances("127.0.0.1")(t.Context(), "tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		_ = conn.Close()
	}
}
