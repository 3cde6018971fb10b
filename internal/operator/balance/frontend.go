package balance

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
)

// frontend is a manager.Frontend, checked and with names for the kernel.
type frontend struct {
	app       string
	port      uint16
	endpoints []endpoint // by instance
}

// endpoint is one instance behind a public port, and what the kernel calls it.
type endpoint struct {
	app      string
	instance string
	addr     netip.AddrPort
	chain    string
	set4     string // clients by IPv4 address
	set6     string // clients by IPv6 address
	new4     string // who only asked to connect yet, by IPv4 address
}

func (f frontend) chain() string { return fmt.Sprintf("svc_%d", f.port) }

func (f frontend) seenChain() string { return fmt.Sprintf("seen_%d", f.port) }

// newFrontends checks a desired state and brings it into one order, so that
// equal states compare equal.
func newFrontends(in []manager.Frontend, subnet netip.Prefix) ([]frontend, error) {
	out := make([]frontend, 0, len(in))
	for _, f := range in {
		if f.Port == 0 {
			return nil, problem.New(problem.Invalid, problem.RulePort, "app %s: no public port", f.App)
		}

		nf := frontend{app: f.App, port: f.Port}
		for _, e := range f.Endpoints {
			ne, err := newEndpoint(f, e, subnet)
			if err != nil {
				return nil, err
			}
			nf.endpoints = append(nf.endpoints, ne)
		}

		slices.SortFunc(nf.endpoints, func(a, b endpoint) int { return strings.Compare(a.instance, b.instance) })
		for i := 1; i < len(nf.endpoints); i++ {
			if nf.endpoints[i].instance == nf.endpoints[i-1].instance {
				return nil, problem.New(problem.Invalid, ruleEndpoint, "port %d has instance %s twice", f.Port, nf.endpoints[i].instance)
			}
		}

		out = append(out, nf)
	}
	slices.SortFunc(out, func(a, b frontend) int { return int(a.port) - int(b.port) })
	for i := 1; i < len(out); i++ {
		if out[i].port == out[i-1].port {
			return nil, portTaken(out[i].port, "app "+out[i-1].app)
		}
	}

	return out, nil
}

// newEndpoint checks an endpoint of f, and names its chain and sets.
func newEndpoint(f manager.Frontend, e manager.Endpoint, subnet netip.Prefix) (endpoint, error) {
	ip := e.IP.Unmap()
	if e.Instance == "" || e.Port == 0 || !subnet.Contains(ip) {
		return endpoint{}, problem.New(problem.Invalid, ruleEndpoint, "port %d: instance %q at %s:%d", f.Port, e.Instance, e.IP, e.Port).
			Want("an instance with a port and an address in %s", subnet)
	}
	// Named after what must stay for a client to stay: an instance that comes
	// back under another address keeps its clients.
	sum := sha256.Sum256(fmt.Appendf(nil, "%d/%d:%s/%s", f.Port, len(f.App), f.App, e.Instance))
	name := fmt.Sprintf("%d_%s", f.Port, hex.EncodeToString(sum[:8]))

	return endpoint{
		app:      f.App,
		instance: e.Instance,
		addr:     netip.AddrPortFrom(ip, e.Port),
		chain:    "ep_" + name,
		set4:     "v4_" + name,
		set6:     "v6_" + name,
		new4:     "n4_" + name,
	}, nil
}

// portTaken refuses a port that somebody else holds.
func portTaken(port uint16, by string) *problem.Error {
	return problem.New(problem.Conflict, problem.RulePortTaken, "port %d is held by %s", port, by).
		Want("a free port").Fix("choose another with --port, or stop what holds it")
}
