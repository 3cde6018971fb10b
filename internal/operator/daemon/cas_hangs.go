package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"cupel.dev/cupel/internal/operator/watchdog"
)

// watched is a life of the CAS as the watchdog sees it.
func (c *casProcess) watched(r *running, ask func(context.Context) error) watchdog.Process {
	return watchdog.Process{
		Name:     "the CAS",
		Rule:     ruleCASHangs,
		PID:      r.pid,
		Ask:      ask,
		Patience: cmp.Or(c.patience, watchdog.Patience),
	}
}

// answers asks the CAS whether it is there. Whatever it says is an answer, and nothing
// of it is believed. So is the end of the connection: the kernel takes connections for a
// process that hangs, but only the process closes one, as it does where strangers of the
// same address have all their places.
func (r *running) answers(ctx context.Context) error {
	address := local(r.ready.Owners)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	switch {
	case err == nil:
	case connectionsWait(portOf(address)):
		return err // it takes none of them: nothing stands between
	default:
		return errors.Join(watchdog.ErrUnreached, err)
	}
	defer func() { _ = conn.Close() }()

	heard := &hearing{Conn: conn}
	err = tls.Client(heard, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}).HandshakeContext(ctx) //nolint:gosec // see above
	if heard.sign.Load() {
		return nil
	}
	return err
}

// hearing is a connection that notices whether there was any sign of the other side.
type hearing struct {
	net.Conn
	sign atomic.Bool
}

func (h *hearing) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 || hungUp(err) {
		h.sign.Store(true)
	}
	return n, err
}

func (h *hearing) Write(b []byte) (int, error) {
	n, err := h.Conn.Write(b)
	if hungUp(err) {
		h.sign.Store(true)
	}
	return n, err
}

// hungUp tells of an error that it was the other side who ended the connection.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// connectionsWait reports whether there are connections to a port of this machine that
// whoever listens there has not taken yet (proc_pid_net(5)). Where they are too many, the
// kernel answers no other, which looks like a firewall.
func connectionsWait(port string) bool {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return false
	}

	const listening = "0A"
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, _ := os.ReadFile(file) // none without IPv6
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line) // number, address:port, the other's, state, bytes to send:connections that wait
			if len(f) < 5 || f[3] != listening || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", number)) {
				continue
			}

			if _, waiting, _ := strings.Cut(f[4], ":"); strings.Trim(waiting, "0") != "" {
				return true
			}
		}
	}
	return false
}
