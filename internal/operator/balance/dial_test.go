package balance

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/testing/netlab"
)

// deaf is the address of what accepts nothing, and has no room for another connection
// that waits for that.
func deaf(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	check(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	check(t, unix.Listen(fd, 0))
	at, err := unix.Getsockname(fd)
	check(t, err)
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(at.(*unix.SockaddrInet4).Port))
	for range 2 {
		if c, err := net.DialTimeout("tcp4", addr.String(), 300*time.Millisecond); err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
	}
	return addr
}

// TestDialsAreBounded: a flow that loses its place while its instance is being dialled is
// dialled no longer, so that an app that accepts nothing has no more connections of
// cupeld's than there are places. Closing the balancer waits for no dial either.
func TestDialsAreBounded(t *testing.T) {
	newLab(t) // brings lo up
	const limit, clients = 4, 40
	var log bytes.Buffer // read once all have ended
	var running sync.WaitGroup
	e := endpoint{app: "a", instance: "i", addr: deaf(t), set4: "s4", set6: "s6"}
	f := &listener{
		port: port,
		affinity: &affinity{
			now:   time.Now,
			queue: make(chan membership, clients),
			ports: map[uint16]*portAffinity{port: {
				endpoints: []endpoint{e},
				clients:   map[string]map[netip.Addr]time.Time{e.set4: {}, e.set6: {}},
				expired:   map[string]time.Time{},
			}},
			kernel: &kernel{idle: time.Hour, size: clients},
		},
		flows:   newFlows(limit, time.Hour, time.Now),
		log:     slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		running: &running,
		full:    func(string) {},
	}
	var err error
	f.ln, err = listen(t.Context(), 0)
	check(t, err)
	running.Add(1)
	go f.serve()
	at := netip.AddrPortFrom(e.addr.Addr(), uint16(f.ln.Addr().(*net.TCPAddr).Port))
	for i := range clients {
		c, err := netlab.Dial(netip.AddrFrom4([4]byte{127, 1, 0, byte(i + 1)}), at)
		if errors.Is(err, syscall.ECONNRESET) { // it made room for others already
			continue
		}
		check(t, err)
		defer func() { _ = c.Close() }()
	}
	f.close()
	b := &Balancer{flows: f.flows}
	b.running.Go(running.Wait)
	b.endFlows()
	if n := strings.Count(log.String(), "timeout"); n > limit {
		t.Errorf("%d dials came to their own end, with %d places:\n%s", n, limit, log.String())
	}
}

// TestFullNamesWhatIsAccepted: the limit that would let more in is one that can be given.
func TestFullNamesWhatIsAccepted(t *testing.T) {
	for limit, want := range map[int]string{
		2048:                "--balancer connections=4096 lets more in",
		mostConnections - 1: "--balancer connections=65536 lets more in",
		mostConnections:     "There can't be more places",
	} {
		if got := (crowd{limit: limit, app: "a"}).String(); !strings.HasSuffix(got, want) {
			t.Errorf("%d: %s", limit, got)
		}
	}
}
