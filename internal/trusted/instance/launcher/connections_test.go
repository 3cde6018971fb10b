package launcher

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"cupel.dev/cupel/internal/trusted/wire"
)

// counting is a listener that counts the connections that are open.
type counting struct {
	net.Listener
	open atomic.Int64
}

func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return &counted{Conn: c, l: l}, nil
}

type counted struct {
	net.Conn
	l      *counting
	closed atomic.Bool
}

func (c *counted) Close() error {
	if !c.closed.Swap(true) {
		c.l.open.Add(-1)
	}
	return c.Conn.Close()
}

// TestNoConnectionIsHeld: between reports the CAS has nothing open for an
// instance, so that thousands of them don't fill it.
func TestNoConnectionIsHeld(t *testing.T) {
	c := newFakeCAS(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &counting{Listener: inner}
	c.serve(l)
	id := testConfigID(t)
	las := fakeLAS{configID: wire.LaunchBinding(c.hash(), id.Session, id.Service)}

	client, err := newCASClient(inner.Addr().String(), time.Now)
	must(t, err)
	_, err = client.release(t.Context(), las, id)
	must(t, err)
	for range 3 {
		var kept wire.KeepAliveReply
		must(t, client.call(t.Context(), wire.PathKeepAlive, wire.KeepAlive{Version: wire.ReleaseVersion}, &kept))
	}

	for range 100 { // the server learns of it a moment later
		if l.open.Load() == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%d connections stay open between reports", l.open.Load())
}
