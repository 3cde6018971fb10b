package castest

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"time"

	"cupel.dev/cupel/internal/trusted/wire"
)

// TestCrowd: strangers fill the CAS from one address: idle connections, handshakes
// that never end, requests that never come. An instance elsewhere is released in
// time, and one at the same address as well.
func TestCrowd(t *testing.T) {
	e := begin(t, Options{MaxConnections: 64})
	create(t, e.Owner(t), sessionText("s"))

	dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	stranger := mustKey(t)
	for _, hold := range []func(net.Conn){
		func(c net.Conn) { // half a body
			tc := tls.Client(c, tlsConfig(stranger, e.Identity))
			_, _ = tc.Write([]byte("POST " + wire.PathKeepAlive + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"))
		},
		func(net.Conn) {}, // silence
		func(c net.Conn) { // a handshake alone
			_ = tls.Client(c, tlsConfig(stranger, e.Identity)).Handshake()
		},
		func(c net.Conn) { // half a header
			tc := tls.Client(c, tlsConfig(stranger, e.Identity))
			_, _ = tc.Write([]byte("POST " + wire.PathKeepAlive + " HTTP/1.1\r\nHost: x\r\n"))
		},
	} {
		for range 40 {
			c, err := dialer.DialContext(t.Context(), "tcp", e.Instances)
			if err != nil {
				continue // the kernel's queue is full: it can't be fuller
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond)) // it may not be accepted at all
			hold(c)
		}
	}

	const inTime = 20 * time.Second // the launcher's deadline of one exchange
	for _, from := range []string{"127.0.0.2", "127.0.0.1"} {
		in := e.Instance(t, "s", "client-app", appCode)
		in.From = &net.TCPAddr{IP: net.ParseIP(from)}
		ctx, cancel := context.WithTimeout(t.Context(), inTime)
		defer cancel()
		var err error
		for ctx.Err() == nil { // refused at the door, launchers come again
			var c *Conn
			if c, _, err = in.Release(ctx); err == nil {
				c.Close()
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		if err != nil {
			t.Errorf("release from %s: %v", from, err)
		}
	}
	if _, err := e.Owner(t).Do(t.Context(), http.MethodGet, "/v1/health", nil, nil); err != nil {
		t.Errorf("the owners' API: %v", err)
	}
}
