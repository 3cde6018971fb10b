package netcheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"cupel.dev/cupel/internal/trusted/problem"
)

const (
	instancePort = 8080 // that the check's instance listens on
	outsidePort  = 443  // that is called outside
)

// probe is a Probe and how it is made.
type probe struct {
	Probe
	try   func(ctx context.Context) error // nil: it is not tried
	to    netip.AddrPort
	users bool // the packets come from outside
}

// judge takes note of what stopped it; no cause: nothing did at the second try.
func (p *probe) judge(c *cause) {
	if c == nil {
		return
	}
	p.OK, p.Cause, p.Mend = false, c.text, c.mend
}

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
	}
	for s, at := range map[*space]netip.AddrPort{
		l.instance: netip.AddrPortFrom(l.Instance, instancePort),
		l.outside:  netip.AddrPortFrom(l.out4, outsidePort),
	} {
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
	return problem.New(problem.Unavailable, "ports_exhausted", "no port from %d on is free", l.FirstPort)
}

// serve accepts and hangs up.
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
			_ = c.Close()
		}
	}()
	return nil
}

// probes is everything that is tried.
func (l *lab) probes() []*probe {
	cas := netip.AddrPortFrom(l.Gateway, l.CASPort)
	out := netip.AddrPortFrom(l.out4, outsidePort)
	here := netip.AddrPortFrom(l.here4, l.port)
	here6 := netip.AddrPortFrom(l.here6, l.port)
	which := fmt.Sprintf("the public port %d", l.port)
	if l.ours {
		which = fmt.Sprintf("a public port (tried: %d)", l.port)
	}
	list := []*probe{
		{
			Probe: Probe{Name: InstanceCAS, What: fmt.Sprintf("an instance reaches the CAS at %s", cas)},
			to:    cas, try: l.dial(l.instance, cas),
		},
		{
			Probe: Probe{Name: InstanceOutside, What: "an instance reaches the world outside, through " + l.uplink},
			to:    out, try: l.dial(l.instance, out),
		},
		l.dns(),
		{
			Probe: Probe{Name: UsersIPv4, What: fmt.Sprintf("users reach %s over IPv4, through %s", which, l.uplink)},
			to:    here, try: l.dial(l.outside, here), users: true,
		},
		{
			Probe: Probe{Name: UsersIPv6, What: fmt.Sprintf("users reach %s over IPv6, through %s", which, l.uplink)},
			to:    here6, try: l.dial(l.outside, here6), users: true,
		},
	}
	if !l.here6.IsValid() {
		last := list[len(list)-1]
		last.try, last.Note = nil, "not tried: "+l.uplink+" has no IPv6 address"
	}
	if l.uplink == deviceOutside(l.ID) {
		for _, p := range list {
			if p.Name == InstanceOutside || p.users {
				p.What = p.What[:len(p.What)-len(", through "+l.uplink)]
				p.Note = orElse(p.Note, "tried with a network of the check's own: there is no Ethernet device with a default route")
			}
		}
	}
	for _, p := range list {
		p.OK = true
		if dev := outOf(l.out4); dev != l.uplink && (p.Name == InstanceOutside || p.users) {
			p.try, p.Note = nil, "not tried: this machine's rules (ip rule) send everything out of "+orElse(dev, "nowhere")
		}
	}
	return list
}

func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// dial connects from a namespace.
func (l *lab) dial(s *space, to netip.AddrPort) func(context.Context) error {
	return func(ctx context.Context) error {
		return s.do(func() error {
			d := net.Dialer{Timeout: patience}
			// One address, so that the socket is made by this thread.
			c, err := d.DialContext(ctx, "tcp", to.String())
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
}

// dns asks the instances' name servers. The questions are caught on this machine:
// whether anybody answers is not for the check to know.
func (l *lab) dns() *probe {
	p := &probe{Probe: Probe{Name: InstanceDNS, What: "an instance asks a name server"}}
	for _, r := range l.Resolvers {
		if r.Is4() {
			p.to = netip.AddrPortFrom(r, 53)
			p.What = fmt.Sprintf("an instance asks the name server %s", r)
			break
		}
	}
	p.try = func(ctx context.Context) error {
		if !p.to.IsValid() {
			return errNoResolver
		}
		before := l.asked()
		err := l.instance.do(func() error {
			c, err := (&net.Dialer{}).DialContext(ctx, "udp4", p.to.String())
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			_, err = c.Write([]byte("cupel check")) // no question at all, should it get anywhere
			return err
		})
		if err != nil {
			return err
		}
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if l.asked() != before {
				return nil
			}
		}
		return context.DeadlineExceeded
	}
	return p
}

var errNoResolver = errors.New("no name server")
