package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/operator/netcheck"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/wording"
)

// This file tells what runs, and where it is reached.

// list says what runs where.
func (p *parts) list(e managerapi.Endpoint) []managerapi.Part {
	return []managerapi.Part{
		{Name: "manager API", Address: reachable(p.listensAt.manager, e.Address), PID: os.Getpid()},
		{Name: "CAS, owners", Address: reachable(p.listensAt.owners, e.CAS.Owners), PID: p.cas.processID(), Note: "identity " + e.CAS.Identity.String()},
		{Name: "CAS, instances", Address: reachable(p.listensAt.instances, e.CAS.Instances), PID: p.cas.processID()},
		{Name: "registry", Address: e.Registry, PID: os.Getpid()},
		{Name: "node and LAS", Address: p.network.Subnet().String(), PID: os.Getpid(), Note: "instances reach this machine as " + p.network.Gateway().String()},
		{Name: "containerd", Address: p.daemon.Address(), Note: "namespace " + p.namespace()},
	}
}

// portOf is the port of an address that a listener told.
func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // a listener's own words
	return port
}

// local is the address at which this machine reaches a listener.
func local(addr string) string {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().IsUnspecified() {
		return addr
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ap.Port())))
}

// reachable is the address at which others reach a listener that is open to them, as
// this machine knows it. Where the machine has no way to the world, or the listener is
// this machine's alone, it is the local one.
func reachable(listens, local string) string {
	ap, err := netip.ParseAddrPort(listens)
	if err != nil || !ap.Addr().IsUnspecified() {
		return local
	}

	host := outside()
	if host == "" {
		return local
	}
	return net.JoinHostPort(host, strconv.Itoa(int(ap.Port())))
}

// outside is the address by which this machine leaves for the world; empty: it doesn't.
func outside() string {
	for _, world := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} { // nothing is sent there
		conn, err := net.Dial("udp", world)
		if err != nil {
			continue
		}

		host, _, _ := net.SplitHostPort(conn.LocalAddr().String()) // its own words
		_ = conn.Close()
		return host
	}
	return ""
}

// writeEndpoint tells the programs of this machine where everything listens.
func (l layout) writeEndpoint(e managerapi.Endpoint) error {
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(l.path(client.EndpointFile), append(b, '\n'), 0o644)
}

// moveEndpoint tells them when this machine leaves for the world by another address:
// one that boots may have no way out yet. None is no address, and the last one stays.
func (l layout) moveEndpoint(e *managerapi.Endpoint, outside string) (moved bool, err error) {
	if outside == "" || outside == e.Outside {
		return false, nil
	}
	e.Outside = outside
	return true, l.writeEndpoint(*e)
}

// Serving is what runs, once everything does.
type Serving struct {
	Endpoint managerapi.Endpoint `json:"endpoint"`
	Parts    []managerapi.Part   `json:"parts"`
	// Network is what stands in the way of instances or their users.
	Network []netcheck.Probe `json:"network,omitempty"`
	// Unchecked is why it isn't known what stands in their way.
	Unchecked *problem.Error `json:"network_unchecked,omitempty"`
	// NeedOwner are the apps that go on as they are and that the CAS will not let
	// start again before their owner has done something, each with what.
	NeedOwner []string `json:"need_owner,omitempty"`
	// TakenPorts are the apps whose port another program has, each with what to do.
	TakenPorts []string `json:"taken_ports,omitempty"`
	// OldLaunchers are the apps that go on with the launcher before an upgrade, and
	// what their owners have to do before they deploy again.
	OldLaunchers []string `json:"old_launchers,omitempty"`
	// DiskFull is why nothing new is taken for now.
	DiskFull *problem.Error `json:"disk_full,omitempty"`
	// Damaged is what was found damaged in the state folder and didn't stop the start.
	Damaged []string `json:"damaged,omitempty"`
	// Service is what was done to a systemd unit of an earlier release, or is to be done.
	Service string `json:"service,omitempty"`
	// Dropped says which flags the last start had, and this one hasn't.
	Dropped []string `json:"dropped,omitempty"`
}

// needOwner says what owners have to do for apps that can't start again.
func needOwner(apps []managerapi.App) []string {
	var out []string
	for _, a := range apps {
		out = append(out, a.Name+": its owner has to deploy it once: "+managerapi.DeployCommand(a.Session, ident.AppRef(a.Name)))
	}
	return out
}

// takenPorts says why users don't reach apps.
func takenPorts(apps []managerapi.App) []string {
	var out []string
	for _, a := range apps {
		out = append(out, a.Name+": "+a.Problem.Actual+". "+a.Problem.Mend)
	}
	return out
}

// oldLaunchers says what owners have to do for apps with a launcher of before.
func oldLaunchers(apps []managerapi.App) []string {
	var out []string
	for _, a := range apps {
		out = append(out, a.Name+": before it is deployed again, its owner has to measure the runtimes (cupel runtime measure)"+
			" and update the session (cupel session create --update)")
	}
	return out
}

// Show prints what runs where, for people, and that nothing of it is real
// hardware.
func Show(w io.Writer, state string, s Serving) {
	e := s.Endpoint
	var b []byte

	for _, p := range s.Parts {
		b = fmt.Appendf(b, "  %-16s %-24s %s\n", p.Name, p.Address, p.Note)
	}
	b = fmt.Appendf(b, "  %-16s %s\n", "state", state)

	b = appendBlocked(b, s.Network)
	b = appendUnchecked(b, s.Unchecked)
	if d := s.DiskFull; d != nil {
		b = fmt.Appendf(b, "\n  %s, and %s are needed: what runs goes on and can be removed, nothing new is deployed.\n    %s\n", d.Actual, d.Expected, d.Mend)
	}

	for _, line := range s.Damaged {
		b = fmt.Appendf(b, "\n  %s\n", line)
	}

	if s.Service != "" {
		b = fmt.Appendf(b, "\n  %s\n", s.Service)
	}

	if len(s.Dropped) > 0 {
		b = append(b, '\n')
	}
	for _, line := range s.Dropped {
		b = fmt.Appendf(b, "  %s\n", line)
	}

	if len(s.NeedOwner) > 0 {
		b = append(b, "\n  These apps run on, but the CAS will not let them start again:\n"...)
	}
	for _, line := range s.NeedOwner {
		b = fmt.Appendf(b, "    %s\n", line)
	}

	if len(s.TakenPorts) > 0 {
		b = append(b, "\n  Warning: these apps run, and their users don't reach them:\n"...)
	}
	for _, line := range s.TakenPorts {
		b = fmt.Appendf(b, "    %s\n", line)
	}

	if len(s.OldLaunchers) > 0 {
		b = append(b, "\n  These apps go on with the launcher before an upgrade:\n"...)
	}
	for _, line := range s.OldLaunchers {
		b = fmt.Appendf(b, "    %s\n", line)
	}

	if e.Simulation != nil {
		b = fmt.Appendf(b, `
  **********************************************************************
  *  SIMULATION: no TEE protects anything on this machine. Whoever is  *
  *  root here can read every secret. For tests and development only.  *
  **********************************************************************
  An owner accepts it by naming its root: --trust-simulation %s
`, e.Simulation)
	}

	_, _ = io.WriteString(w, wording.InState(string(b), state, defaultState))
}
