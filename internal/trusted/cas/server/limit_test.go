package server

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
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

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &pipes{conns: make(chan net.Conn, 10), closed: make(chan struct{})}
		l := limit(inner, 2)
		for range 4 {
			a, b := net.Pipe()
			defer func() { _ = a.Close() }()
			inner.conns <- b
		}
		accepted := make(chan net.Conn, 10)
		ended := make(chan error, 1)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					ended <- err
					return
				}
				accepted <- c
			}
		}()
		count := func(want int) {
			t.Helper()
			synctest.Wait()
			if n := len(accepted); n != want {
				t.Fatalf("%d accepted, want %d", n, want)
			}
		}
		count(2)
		first := <-accepted
		_ = first.Close()
		_ = first.Close() // frees one place, not two
		count(2)
		_ = (<-accepted).Close()
		count(2)
		_ = (<-accepted).Close()
		_ = (<-accepted).Close()
		_ = l.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
	})
}
