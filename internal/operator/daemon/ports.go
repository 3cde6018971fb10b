package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/upflags"
)

// ports remembers which port each listener got, so that one that was chosen by
// the kernel (port 0) is the same after a restart: instances know the CAS's.
type ports struct {
	file string
	last map[string]string // listener -> port
}

// loadPorts reads what was remembered; a damaged file is none.
func loadPorts(file string) *ports {
	p := &ports{file: file, last: map[string]string{}}
	b, err := atomicfile.Read(file)
	if err != nil {
		return p
	}

	if last, ok := parsePorts(b); ok { // a damaged one only costs the same ports
		p.last = last
	}
	return p
}

// parsePorts reads what save wrote.
func parsePorts(b []byte) (last map[string]string, ok bool) {
	if json.Unmarshal(b, &last) != nil || last == nil {
		return nil, false
	}

	for _, port := range last {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return nil, false
		}
	}
	return last, true
}

// prefer replaces port 0 by the port of last time, if nobody has it now.
func (p *ports) prefer(name, addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port != "0" || p.last[name] == "" {
		return addr
	}

	same := net.JoinHostPort(host, p.last[name])
	ln, err := net.Listen("tcp", same)
	if err != nil {
		return addr
	}
	_ = ln.Close()
	return same
}

// remember keeps the port of a listener, to be saved.
func (p *ports) remember(name, addr string) {
	if _, port, err := net.SplitHostPort(addr); err == nil {
		p.last[name] = port
	}
}

// again is where a listener was last time, whoever has that port by now.
func (p *ports) again(name, host string) string {
	return net.JoinHostPort(host, cmp.Or(p.last[name], "0"))
}

// firstPortKept is where ports.json has --first-port.
const firstPortKept = "first-port"

// first is where the last start began to look for apps' ports; 8082 before there was
// one.
func (p *ports) first() uint16 {
	n, err := strconv.ParseUint(p.last[firstPortKept], 10, 16)
	if err != nil || n == 0 {
		return upflags.FirstPort
	}
	return uint16(n)
}

// keepFlags has ports.json say that up.json is there, which is written before it: releases
// that wrote none didn't say so. The value is no port.
func (p *ports) keepFlags() { p.last[keptFile] = "0" }

// flagsKept tells whether it says so.
func (p *ports) flagsKept() bool { return p.last[keptFile] != "" }

// free tells of a port whether an app may have it: nobody listens there, and it is
// none of this installation's own, which one of its parts may be about to take
// again.
func (p *ports) free() func(port uint16) error {
	own := map[string]string{}
	for name, port := range p.last {
		if name != firstPortKept {
			own[port] = name
		}
	}

	return func(port uint16) error {
		text := strconv.Itoa(int(port))
		if name := own[text]; name != "" {
			return fmt.Errorf("it is this installation's own (%s)", name)
		}
		ln, err := net.Listen("tcp", ":"+text)
		if err != nil {
			return err
		}
		return ln.Close()
	}
}

// listener is one of the addresses at which an installation serves.
type listener struct {
	name string // in ports.json
	what string
	flag string // of `cupel up`
	addr func(*Options) *string
}

// Names of the listeners, as ports.json has them.
const (
	managerListener   = "manager"
	ownersListener    = "cas-owners"
	instancesListener = "cas-instances"
	registryListener  = "registry"
)

// listeners are all addresses at which an installation serves, but for those of apps.
var listeners = []listener{
	{managerListener, "the manager's API", "--manager-listen", func(o *Options) *string { return &o.ManagerListen }},
	{ownersListener, "the CAS's API for owners", "--cas-owners", func(o *Options) *string { return &o.CASOwners }},
	{instancesListener, "the CAS's API for instances", "--cas-instances", func(o *Options) *string { return &o.CASInstances }},
	{registryListener, "the registry", "--registry-listen", func(o *Options) *string { return &o.RegistryListen }},
}

// listenerOf is the listener of that name.
func listenerOf(name string) listener {
	return listeners[slices.IndexFunc(listeners, func(l listener) bool { return l.name == name })]
}

// taken names a listener whose address another one has.
func (l listener) taken(addr string) string {
	return fmt.Sprintf("%s, %s (%s)", addr, l.what, l.flag)
}

// check refuses all addresses that are taken in one go, before anything is started.
// A part that an earlier cupeld left may be about to give up its address: that is
// waited for while ending reports it.
func (p *ports) check(ctx context.Context, o Options, ending func() bool) error {
	for deadline := time.Now().Add(casStopTimeout); ; {
		taken, err := p.taken(o)
		if err != nil || len(taken) == 0 {
			return err
		}

		if !ending() || time.Now().After(deadline) {
			return refuseTaken(taken)
		}

		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// taken are the listeners whose address another program has, or another of them.
func (p *ports) taken(o Options) (map[string]string, error) {
	taken := map[string]string{}
	for _, l := range listeners {
		addr := p.prefer(l.name, *l.addr(&o))
		ln, err := net.Listen("tcp", addr)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			taken[l.name] = addr
		case err != nil:
			if slices.Contains(o.settled, l.name) {
				l.what += ", where the last start listened"
			}
			return nil, refuseAddress(l, err)
		default:
			defer func() { _ = ln.Close() }() // until all are tried: no two may have one address
		}
	}
	return taken, nil
}

// refuseTaken is the refusal of all that are taken.
func refuseTaken(taken map[string]string) error {
	var all, flags []string
	for _, l := range listeners {
		if addr, ok := taken[l.name]; ok {
			all = append(all, l.taken(addr))
			flags = append(flags, l.flag)
		}
	}

	return problem.New(problem.Conflict, problem.RulePortTaken, "taken: %s", strings.Join(all, "; ")).
		Want("addresses that no other program and no other of these has").
		Fix("end what listens there ('ss -ltnp' shows it), or give other addresses: %s HOST:PORT", strings.Join(flags, " HOST:PORT "))
}

// refuseAddress is the refusal of an address that can't be listened at.
func refuseAddress(l listener, err error) error {
	return problem.New(problem.Invalid, ruleListen, "listen for %s: %w", l.what, err).Fix("give HOST:PORT of this machine with %s", l.flag)
}

// listen takes an address, with the port of last time in place of 0.
func (p *ports) listen(name, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", p.prefer(name, addr))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, refuseTaken(map[string]string{name: addr})
	case err != nil:
		return nil, refuseAddress(listenerOf(name), err)
	}

	p.remember(name, ln.Addr().String())
	return ln, nil
}

// save writes down what is remembered.
func (p *ports) save() error {
	b, err := json.Marshal(p.last)
	if err != nil {
		return err
	}
	return writeOnce(p.file, b, 0o644)
}
