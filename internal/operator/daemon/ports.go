package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"cupel.dev/cupel/internal/trusted/problem"
)

// ports remembers which port each listener got, so that one that was chosen by
// the kernel (port 0) is the same after a restart: instances know the CAS's.
type ports struct {
	file string
	last map[string]string // listener -> port
}

func loadPorts(file string) *ports {
	p := &ports{file: file, last: map[string]string{}}
	if b, err := os.ReadFile(file); err == nil {
		_ = json.Unmarshal(b, &p.last) // a damaged one only costs the same ports
	}
	return p
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

func (p *ports) remember(name, addr string) {
	if _, port, err := net.SplitHostPort(addr); err == nil {
		p.last[name] = port
	}
}

// again is where a listener was last time, whoever has that port by now.
func (p *ports) again(name, host string) string {
	return net.JoinHostPort(host, orElse(p.last[name], "0"))
}

// free tells of a port whether an app may have it: nobody listens there, and it is
// none of this installation's own, which one of its parts may be about to take
// again.
func (p *ports) free() func(port uint16) error {
	own := map[string]string{}
	for name, port := range p.last {
		own[port] = name
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

func (p *ports) listen(name, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", p.prefer(name, addr))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, problem.New(problem.Conflict, "port_taken", "the %s's address %s is taken: %w", name, addr, err).
			Fix("end what listens there, or give another address with --%s-listen", strings.ReplaceAll(name, " ", "-"))
	case err != nil:
		return nil, problem.New(problem.Invalid, "listen", "listen for the %s: %w", name, err).
			Fix("give HOST:PORT of this machine with --%s-listen", name)
	}
	p.remember(name, ln.Addr().String())
	return ln, nil
}

func (p *ports) save() error {
	b, err := json.Marshal(p.last)
	if err != nil {
		return err
	}
	return writeOnce(p.file, b)
}
