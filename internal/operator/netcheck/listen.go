package netcheck

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"cupel.dev/cupel/api/problem"
)

// listen opens what the probes call, where nobody else listens.
func (l *lab) listen(ctx context.Context) error {
	var lc net.ListenConfig

	// The machine's own first: the Go library finds out once, where it first
	// listens, whether there is IPv6.
	if err := l.listenPublic(ctx, lc); err != nil {
		return err
	}

	if !l.CASRuns {
		ln, err := lc.Listen(ctx, "tcp4", netip.AddrPortFrom(l.Gateway, l.CASPort).String())
		if err := l.serve(ln, err); err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		l.casOurs = err == nil
	}

	ln, err := lc.Listen(ctx, "tcp4", netip.AddrPortFrom(l.Gateway, 0).String())
	if err := l.serve(ln, err); err != nil {
		return err
	}

	l.other = portOf(ln)

	err = l.outside.do(func() error {
		ln, err := lc.Listen(ctx, "tcp4", netip.AddrPortFrom(l.v4.out, 0).String())
		if err := l.serve(ln, err); err != nil {
			return err
		}

		l.far = portOf(ln)
		return nil
	})
	if err != nil {
		return err
	}

	at := map[netip.AddrPort]*space{netip.AddrPortFrom(l.v4.out, outsidePort): l.outside}
	for _, port := range append([]uint16{instancePort}, l.AppPorts...) {
		at[netip.AddrPortFrom(l.Instance, port)] = l.instance
	}

	for at, s := range at {
		err := s.do(func() error {
			ln, err := lc.Listen(ctx, "tcp4", at.String())
			return l.serve(ln, err)
		})
		if err != nil {
			return err
		}
	}

	return nil
}

// portOf is the port that a listener has.
func portOf(ln net.Listener) uint16 {
	at, _ := netip.ParseAddrPort(ln.Addr().String()) // a listener's own words
	return at.Port()
}

// listenPublic chooses the public port that is tried, and holds it if no app does.
func (l *lab) listenPublic(ctx context.Context, lc net.ListenConfig) error {
	if len(l.Ports) > 0 {
		l.port = l.Ports[0]
		return nil
	}

	l.ours = true
	for port := int(max(l.FirstPort, 1)); port <= 65535; port++ {
		ln, err := lc.Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(port)))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		l.port = uint16(port)
		return l.serve(ln, err)
	}

	return problem.New(problem.Unavailable, rulePortsExhausted, "no port from %d on is free", l.FirstPort)
}

// serve accepts, and answers what the check says.
func (l *lab) serve(ln net.Listener, err error) error {
	if err != nil {
		return err
	}

	l.listeners = append(l.listeners, ln)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_ = exchange(c, false)
			}()
		}
	}()

	return nil
}

// bulk fills some packets of any size that there is.
var bulk = bytes.Repeat([]byte("cupel check "), 1<<11)

// exchange sends bulk and reads it back, or the other way round.
func exchange(c net.Conn, first bool) error {
	limit := 2 * patience
	if !first {
		limit *= 2 // so that who called hears nothing rather than an end
	}

	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}

	send := func() error {
		_, err := c.Write(bulk)
		return err
	}
	receive := func() error {
		got := make([]byte, len(bulk))
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
		if !bytes.Equal(got, bulk) {
			return errors.New("another answer")
		}

		return nil
	}

	if !first {
		send, receive = receive, send
	}
	if err := send(); err != nil {
		return err
	}
	return receive()
}
