package netcheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	instancePort = 8080 // that the check's instance listens on
	outsidePort  = 443  // that is called outside
	dnsPort      = 53
	mostPorts    = 16 // public ports that are tried
)

// probe is a Probe and how it is made.
type probe struct {
	Probe
	try   func(ctx context.Context) error // nil: it is not tried
	to    netip.AddrPort
	users bool       // the packets come from outside
	host  bool       // this machine itself calls an instance
	here  bool       // a program of this machine answers, not one beyond the bridge or outside
	known *cause     // what stops it, known without a try
	doubt string     // why it isn't known whether it works where the try does
	ways  []expected // how its packets have to be led

	clients match // whom a mend is for, of users; empty: all

	stalls bool // it failed after a connection was made
}

// expected is a packet, and the device that it has to leave by; empty: any.
type expected struct {
	way
	device string
}

// back is the way of what answers an instance.
func (l *lab) back() expected { return expected{way{from: l.Gateway, to: l.Instance}, l.Bridge} }

// inward is the way to an instance of what comes in from somebody by a device.
func (l *lab) inward(from netip.Addr, device string) expected {
	return expected{way{from: from, to: l.Instance, in: device}, l.Bridge}
}

// both are an instance's ways to somebody, wherever that is, and the ways back.
func (l *lab) both(to netip.Addr) []expected {
	out := way{from: l.Instance, to: to, in: l.Bridge}

	device := out.device()
	if d := out.decidedBy(); device == "" && d != nil && d.route != nil {
		device = deviceName(d.route.LinkIndex) // what comes back is refused: not the way there
	}

	return []expected{{way: out}, l.back(), l.inward(to, device)}
}

// judge takes note of what stopped it; no cause: nothing did at the second try.
func (p *probe) judge(c *cause) {
	switch {
	case c != nil:
		p.OK = false
		p.Unknown = c.unknown
		p.Cause = c.text
		p.Mend = c.mend
	case p.doubt != "":
		p.OK = false
		p.Unknown = true
		p.Note = p.doubt
	}
}

// probes is everything that is tried.
func (l *lab) probes() []*probe {
	list := []*probe{l.toCAS(), l.toWorld(), l.dns(), l.toInstance(), l.users4(), l.users6()}

	for _, t := range l.To {
		list = append(list, l.target(t))
	}
	for _, p := range list {
		p.OK = true
	}

	return list
}

// toCAS calls the CAS, as each instance does when it starts.
func (l *lab) toCAS() *probe {
	cas := netip.AddrPortFrom(l.Gateway, l.CASPort)
	return &probe{
		Probe: Probe{Name: InstanceCAS, What: fmt.Sprintf("an instance reaches the CAS at %s", cas)},
		to:    cas,
		here:  true,
		try:   l.dial(l.instance, l.casOurs, cas),
		ways:  []expected{l.back()},
	}
}

// toOther calls a port of this machine that no rule can know.
func (l *lab) toOther() *probe {
	p := l.toCAS()
	p.Name, p.OK = instanceOther, true
	p.to = netip.AddrPortFrom(l.Gateway, l.other)
	p.try = l.dial(l.instance, true, p.to)
	return p
}

// toWorld calls the namespace outside, as an instance calls a server in the world.
func (l *lab) toWorld() *probe {
	p := &probe{
		Probe: Probe{Name: InstanceOutside, What: "an instance reaches the world outside"},
		to:    netip.AddrPortFrom(l.v4.out, outsidePort),
	}
	p.try = l.dial(l.instance, true, p.to)
	p.ways = []expected{
		{way{from: l.Instance, to: l.v4.out, in: l.Bridge}, l.v4.device()},
		l.back(),
		l.inward(l.v4.out, l.v4.device()),
	}

	switch {
	case !l.v4.world && l.v4.astray != nil:
		p.known = l.v4.astray
		p.try = nil
	case l.v4.own && l.v4.entry != nil:
		p.doubt = "not known: " + l.v4.entry.Attrs().Name + " can't be tried on this kernel, only a network of the check's own, which nothing stops"
	case l.v4.own:
		p.doubt = "not known: this machine has no IPv4 address that others can use, and instances have IPv4 alone; nothing stops the check's own network"
	case !l.v4.world:
		p.doubt = fmt.Sprintf("not known: this machine has no IPv4 default route, so an instance reaches its own networks alone; nothing stops that of %s. For one host: cupel check --to HOST:PORT", l.v4.device())
	default:
		p.What += ", through " + l.v4.device()
	}

	return p
}

// toElse calls a port outside that no rule can know.
func (l *lab) toElse() *probe {
	p := l.toWorld()
	p.Name = instanceOutward
	p.OK = true
	p.known = nil
	p.to = netip.AddrPortFrom(l.v4.out, l.far)
	if p.try != nil {
		p.try = l.dial(l.instance, true, p.to)
	}

	return p
}

// toInstance calls an instance as whoever judges its health does.
func (l *lab) toInstance() *probe {
	ports := l.AppPorts[:min(len(l.AppPorts), mostPorts)]
	which := "port"
	if len(ports) > 1 {
		which = "ports"
	}

	p := &probe{
		Probe: Probe{Name: HostInstance, What: fmt.Sprintf("this machine reaches an instance at %s %s", which, joined(ports))},
		to:    netip.AddrPortFrom(l.Instance, ports[0]),
		host:  true,
		here:  true,
		ways:  []expected{l.back()},
		known: l.ledAway(),
	}
	if p.known != nil {
		return p
	}

	p.try = func(ctx context.Context) error {
		for _, port := range ports {
			p.to = netip.AddrPortFrom(l.Instance, port)
			if err := l.dial(nil, true, p.to)(ctx); err != nil {
				return err
			}
		}
		return nil
	}

	return p
}

// users4 calls public ports as users do over IPv4, which the kernel translates.
func (l *lab) users4() *probe {
	p := &probe{Probe: Probe{Name: UsersIPv4}, users: true}
	if l.v4.astray != nil {
		p.known = l.v4.astray
	} else {
		p.ways = []expected{
			l.back(),
			l.inward(l.v4.out, l.v4.device()),
			{way{from: l.Instance, to: l.v4.out, in: l.Bridge}, l.v4.device()},
		}
	}

	l.users(p, &l.v4, "IPv4")
	return p
}

// users6 calls public ports as users do over IPv6, which cupeld proxies.
func (l *lab) users6() *probe {
	p := &probe{Probe: Probe{Name: UsersIPv6}, users: true, here: true}
	if l.v6.astray != nil {
		p.known = l.v6.astray
	} else {
		p.ways = []expected{{way{from: l.v6.here, to: l.v6.out}, l.v6.device()}}
	}

	l.users(p, &l.v6, "IPv6")
	return p
}

// users completes what calls public ports.
func (l *lab) users(p *probe, r *road, version string) {
	ports := l.publicPorts()
	which := "the public port"

	switch {
	case l.ours:
		which = fmt.Sprintf("a public port (tried: %d)", l.port)
	case len(ports) > mostPorts:
		ports = ports[:mostPorts]
		p.Note = fmt.Sprintf("tried: the first %d of %d ports", mostPorts, len(l.Ports))
	}

	if !l.ours {
		if len(ports) > 1 {
			which += "s"
		}
		which += " " + joined(ports)
	}

	p.What = fmt.Sprintf("users reach %s over %s", which, version)

	name := r.device()
	if r.entry != nil {
		name = r.entry.Attrs().Name
	}

	switch {
	case !r.here.IsValid() && l.v6.entry == nil && r == &l.v6:
		p.known = nil
		p.Note = "not tried: this machine has no IPv6 address that others can use"
	case !r.here.IsValid():
		p.known = nil
		p.Note = "not tried: " + name + " can't be tried on this kernel"
	case r.own && r.entry != nil:
		p.doubt = "not known: " + name + " can't be tried on this kernel, only a network of the check's own, which nothing stops"
	case r.own:
		p.doubt = "not known: this machine has no " + version + " address that others can use; nothing stops the check's own network"
	case !r.world:
		p.What += ", through " + name
		if r.astray == nil {
			p.Note = "tried for the network of " + name + ": there is no " + version + " default route"
		}
	default:
		p.What += ", through " + name
	}

	p.to = netip.AddrPortFrom(r.here, ports[0])
	if p.known != nil || !r.here.IsValid() {
		return
	}

	p.try = func(ctx context.Context) error {
		for _, port := range ports {
			p.to = netip.AddrPortFrom(r.here, port)
			if err := l.dial(l.outside, l.ours, p.to)(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// publicPorts are the apps', or the check's own where no app has one.
func (l *lab) publicPorts() []uint16 {
	if l.ours {
		return []uint16{l.port}
	}
	return l.Ports
}

// joined are ports as people list them.
func joined(ports []uint16) string {
	var text []string
	for _, p := range ports {
		text = append(text, strconv.Itoa(int(p)))
	}

	return strings.Join(text, ", ")
}

// errStalled is of a connection that was made, and on which nothing large gets
// through.
var errStalled = errors.New("a connection is made, but large packets don't get through")

// errOther is of a connection on which another program than the check's answers.
var errOther = errors.New("another program answers")

// dial connects from a namespace, or from this machine. With a listener of the check's own it also
// exchanges as much as fills packets.
func (l *lab) dial(s *space, ours bool, to netip.AddrPort) func(context.Context) error {
	return func(ctx context.Context) error {
		var conn net.Conn
		connect := func() error {
			d := net.Dialer{Timeout: patience}
			// One address, so that the socket is made by this thread.
			c, err := d.DialContext(ctx, "tcp", to.String())
			if err != nil {
				return err
			}
			conn = c
			return nil
		}

		var err error
		if s != nil {
			err = s.do(connect)
		} else {
			err = connect()
		}
		if err != nil {
			return err
		}

		defer func() { _ = conn.Close() }()

		if !ours {
			return nil
		}

		err = exchange(conn, true)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return errOther
		} else if err != nil {
			return errStalled
		}

		return nil
	}
}

// dns asks the instances' name servers. The questions are caught on this machine:
// whether anybody answers is not for the check to know.
func (l *lab) dns() *probe {
	p := &probe{Probe: Probe{Name: InstanceDNS, What: "an instance asks a name server"}}
	for _, r := range l.Resolvers {
		if r.Is4() {
			p.to = netip.AddrPortFrom(r, dnsPort)
			p.What = fmt.Sprintf("an instance asks the name server %s", r)
			p.ways = l.both(r)
			break
		}
	}

	p.try = func(ctx context.Context) error {
		if !p.to.IsValid() {
			return errNoResolver
		}

		before := l.caughtQuestions()
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
			if l.caughtQuestions() != before {
				return nil
			}
		}
		return context.DeadlineExceeded
	}

	return p
}

// errNoResolver is of a machine that names no server which an instance could ask.
var errNoResolver = errors.New("no name server")

// target calls what a person asked for. Where that isn't this machine, it is really
// called.
func (l *lab) target(t Target) *probe {
	to := t.Addr.String()
	if t.Text != to {
		to = fmt.Sprintf("%s (%s)", t.Text, to)
	}
	p := &probe{
		Probe: Probe{Name: InstanceTo, What: "an instance reaches " + to},
		to:    t.Addr,
		try:   l.dial(l.instance, false, t.Addr),
	}
	p.ways = []expected{l.back()}
	if p.here = l.isHere(t.Addr.Addr()); !p.here {
		p.ways = l.both(t.Addr.Addr())
	}

	return p
}

// isHere says that an address is one of this machine's.
func (l *lab) isHere(a netip.Addr) bool {
	return way{from: l.Instance, to: a, in: l.Bridge}.device() == "lo"
}
