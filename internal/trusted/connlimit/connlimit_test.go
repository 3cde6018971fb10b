package connlimit

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are ends of pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return nil }

// pipe is the server's end of a connection from some address.
type pipe struct {
	net.Conn
	from string
}

func (p pipe) RemoteAddr() net.Addr {
	a, err := net.ResolveTCPAddr("tcp", p.from+":1000")
	if err != nil {
		panic(err)
	}
	return a
}

// crowd is a listener with few places, and those who come to it.
type crowd struct {
	t        *testing.T
	l        *Listener
	inner    *pipes
	accepted chan net.Conn
	ended    chan error
}

// among runs f with n places.
func among(t *testing.T, n int, f func(c *crowd)) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{
			t:        t,
			inner:    &pipes{conns: make(chan net.Conn, 100), closed: make(chan struct{})},
			accepted: make(chan net.Conn, 100),
			ended:    make(chan error, 1),
		}
		c.l = Limit(c.inner, n)
		go func() {
			for {
				conn, err := c.l.Accept()
				if err != nil {
					c.ended <- err
					return
				}
				c.accepted <- conn
			}
		}()
		f(c)
		if err := c.l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-c.ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ended with %v", err)
		}
	})
}

// come lets somebody connect, and returns the client's end.
func (c *crowd) come(from string) net.Conn {
	ours, theirs := net.Pipe()
	c.inner.conns <- pipe{theirs, from}
	synctest.Wait()
	return ours
}

// in returns the next connection that got a place; nil: there is none.
func (c *crowd) in() net.Conn {
	select {
	case conn := <-c.accepted:
		return conn
	default:
		return nil
	}
}

func (c *crowd) mustBeIn(from string) net.Conn {
	c.t.Helper()
	c.come(from)
	conn := c.in()
	if conn == nil {
		c.t.Fatalf("%s got no place", from)
	}
	return conn
}

// closed reports whether the server let go of a connection.
func closed(client net.Conn) bool {
	_ = client.SetReadDeadline(time.Now().Add(time.Nanosecond))
	_, err := client.Read(make([]byte, 1))
	ne, timeout := errors.AsType[net.Error](err)
	return err != nil && (!timeout || !ne.Timeout())
}

// addresses are many, so that none has its part.
func address(i int) string { return fmt.Sprintf("192.0.2.%d", i) }

// TestIdleMakesRoom: from three quarters on, those that are idle go, the oldest
// first, and who comes needn't wait.
func TestIdleMakesRoom(t *testing.T) {
	among(t, 8, func(c *crowd) {
		var clients []net.Conn
		for i := range 6 {
			clients = append(clients, c.come(address(i)))
			conn := c.in()
			c.l.Observe(conn, http.StateActive)
			c.l.Observe(conn, http.StateIdle)
			time.Sleep(time.Second)
		}
		for i := range 6 {
			if closed(clients[i]) {
				t.Fatalf("%d was closed with room to spare", i)
			}
		}
		c.mustBeIn(address(100))
		if !closed(clients[0]) || closed(clients[1]) {
			t.Error("not the one that was idle longest made room")
		}
	})
}

// TestDawdlersMakeRoom: where all places are taken, handshakes that take more than
// a second go.
func TestDawdlersMakeRoom(t *testing.T) {
	among(t, 8, func(c *crowd) {
		for i := range 8 {
			c.mustBeIn(address(i))
		}
		c.come(address(100))
		if c.in() != nil {
			t.Fatal("a place was taken from one that had just come")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if c.in() == nil {
			t.Fatal("handshakes of two seconds keep others out")
		}
	})
}

// TestWorkStays: what has its request read or answered stays, unless it takes
// very long.
func TestWorkStays(t *testing.T) {
	among(t, 4, func(c *crowd) {
		for i := range 4 {
			c.l.Observe(c.mustBeIn(address(i)), http.StateActive)
		}
		c.come(address(100))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if c.in() != nil {
			t.Fatal("a request under way was cut off")
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if c.in() == nil {
			t.Fatal("requests of eleven seconds keep others out")
		}
	})
}

// TestPartOfAddress: one address has a quarter at most, whatever it does, and
// makes room for itself only.
func TestPartOfAddress(t *testing.T) {
	among(t, 8, func(c *crowd) {
		var taken []net.Conn
		for range 2 {
			taken = append(taken, c.mustBeIn("192.0.2.1"))
		}
		if client := c.come("192.0.2.1"); c.in() != nil || !closed(client) {
			t.Error("a third connection got a place")
		}
		c.mustBeIn("192.0.2.2")
		c.l.Observe(taken[0], http.StateActive)
		c.l.Observe(taken[0], http.StateIdle)
		c.mustBeIn("192.0.2.1")

		// An IPv6 client has as many addresses as it likes.
		c.mustBeIn("[2001:db8::1]")
		c.mustBeIn("[2001:db8::2]")
		if c.come("[2001:db8::3]"); c.in() != nil {
			t.Error("a third connection of one network got a place")
		}
	})
}

// TestPlaceIsFreedOnce: and given to who waits.
func TestPlaceIsFreedOnce(t *testing.T) {
	among(t, 4, func(c *crowd) {
		var taken []net.Conn
		for i := range 4 {
			conn := c.mustBeIn(address(i))
			c.l.Observe(conn, http.StateActive)
			taken = append(taken, conn)
		}
		c.come(address(100))
		c.come(address(101))
		_ = taken[0].Close()
		_ = taken[0].Close()
		synctest.Wait()
		if c.in() == nil || c.in() != nil {
			t.Error("one place was freed, and not one was given")
		}
		if c.l.open != 4 || len(c.l.sources) != 4 {
			t.Errorf("%d open, %d sources", c.l.open, len(c.l.sources))
		}
	})
}
