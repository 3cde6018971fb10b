package netcheck

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"cupel.dev/cupel/api/problem"
)

// Config says what is to be tried. All fields but those that are lists are
// required.
type Config struct {
	ID       string       // 8 hex digits, of the installation
	Bridge   string       // the instances' device, which exists
	Subnet   netip.Prefix // of the instances
	Gateway  netip.Addr   // this machine's address in it
	Instance netip.Addr   // an address in it that nobody has
	HostName string       // what instances call this machine

	CASPort   uint16       // that instances call at Gateway
	CASRuns   bool         // the CAS listens there; else the check does, where nobody else listens
	FirstPort uint16       // where a public port is sought if there is none
	Ports     []uint16     // public ports that lead to instances
	AppPorts  []uint16     // that instances listen on; none: one as most do
	Resolvers []netip.Addr // the instances' name servers
	To        []Target     // what else a person asks for
}

// Target is what an instance shall reach.
type Target struct {
	Text string // as a person wrote it
	Addr netip.AddrPort
}

// Names of the probes.
const (
	InstanceCAS     = "instance_cas"
	InstanceOutside = "instance_outside"
	InstanceDNS     = "instance_dns"
	HostInstance    = "host_instance" // without which no instance is healthy
	UsersIPv4       = "users_ipv4"
	UsersIPv6       = "users_ipv6"
	InstanceTo      = "instance_to" // for each Target

	// Shown with others.
	instanceOther   = "instance_other"
	instanceOutward = "instance_outward"
)

// Probe is one thing that was tried.
type Probe struct {
	Name string `json:"probe"`
	What string `json:"what"` // in a sentence's words: "an instance reaches the CAS at 10.88.7.1:18765"
	OK   bool   `json:"ok"`

	// Unknown says that it can't be known: it isn't OK, and nothing that anybody needs is
	// known to fail.
	Unknown bool   `json:"unknown,omitempty"`
	Note    string `json:"note,omitempty"` // why it was not tried, or how; or what else was found

	// Cause is what stands in the way, and Mend the commands that let it through.
	Cause string   `json:"cause,omitempty"`
	Mend  []string `json:"mend,omitempty"`
}

// Report is what came of all probes.
type Report struct {
	OK     bool    `json:"ok"` // nothing stands in the way
	Probes []Probe `json:"probes"`
}

// Failed are the probes that something stands in the way of.
func (r Report) Failed() []Probe {
	var out []Probe
	for _, p := range r.Probes {
		if !p.OK && !p.Unknown {
			out = append(out, p)
		}
	}
	return out
}

// InstancesWay says whether something stands in the way of what instances call, and of
// what they may need, as other ports of this machine.
func (r Report) InstancesWay() bool {
	return slices.ContainsFunc(r.Probes, func(p Probe) bool {
		switch p.Name {
		case InstanceCAS:
			return p.Cause+p.Note != ""
		case InstanceOutside, InstanceDNS:
			return p.Cause != ""
		}
		return false
	})
}

// Blocked is what one thing stands in the way of.
type Blocked struct {
	Probes []Probe
	Cause  string
	Mend   []string // commands for all of them
}

// ByCause puts probes that the same thing stands in the way of together.
func ByCause(failed []Probe) []Blocked {
	var out []Blocked
	for _, p := range failed {
		at := slices.IndexFunc(out, func(b Blocked) bool { return b.Cause == p.Cause })
		if at < 0 {
			at = len(out)
			out = append(out, Blocked{Cause: p.Cause})
		}

		out[at].Probes = append(out[at].Probes, p)
		out[at].Mend = unique(append(out[at].Mend, p.Mend...))
	}
	return out
}

// Problem is the report as a refusal, or nil.
func (r Report) Problem() error {
	failed := r.Failed()
	if len(failed) == 0 {
		return nil
	}

	var what, mend []string
	for _, b := range ByCause(failed) {
		var names []string
		for _, p := range b.Probes {
			names = append(names, p.Name)
		}
		what = append(what, strings.Join(names, ", ")+": "+b.Cause)
		mend = append(mend, b.Mend...)
	}

	return problem.New(problem.Unavailable, ruleNetworkBlocked, "%s", strings.Join(what, "; ")).
		Want("instances and users let through").Fix("%s; then cupel check again", strings.Join(unique(mend), "; "))
}

// patience is how long a probe waits for what stays on this machine, and then
// once more while it is traced.
const patience = time.Second

// Run tries everything. Its error says that the check itself could not be made.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if _, err := exec.LookPath("nft"); err != nil {
		return Report{}, problem.New(problem.Unavailable, problem.RuleToolMissing, "nft is not installed").Fix("apt-get install --no-remove nftables")
	}

	l, err := newLab(ctx, cfg)
	if l != nil {
		defer l.close()
	}
	if err != nil {
		return Report{}, fmt.Errorf("set up the check of the network: %w", err)
	}

	probes := l.probes()
	toOther := l.toOther()
	toElse := l.toElse()
	tried := append(slices.Clone(probes), toOther, toElse)

	// Whatever passes costs no more than itself: only what failed is traced, one
	// after the other.
	failed := make([]error, len(tried))
	var all sync.WaitGroup
	for i, p := range tried {
		if p.try != nil {
			all.Go(func() { failed[i] = p.try(ctx) })
		}
	}
	all.Wait()

	for i, p := range tried {
		c := p.known
		if of := map[*probe]*probe{toOther: probes[0], toElse: probes[1]}[p]; of != nil && !of.OK {
			continue // what stops that one is told
		}

		if failed[i] != nil && ctx.Err() == nil {
			c = l.explain(ctx, p)
		}
		if ctx.Err() != nil {
			return Report{}, ctx.Err()
		}

		p.judge(c)
	}

	r := Report{OK: true}
	l.noteOther(probes[0], toOther)
	l.weighPorts(probes[1], toElse)

	for _, p := range probes {
		r.OK = r.OK && (p.OK || p.Unknown)
		r.Probes = append(r.Probes, p.Probe)
	}

	return r, nil
}

// noteOther says at the probe of the CAS what is so of this machine's other ports: an
// instance need not reach them, but a git server may be there.
func (l *lab) noteOther(cas, other *probe) {
	if !cas.OK || other.OK {
		return
	}

	mend := strings.Join(other.named(other.Mend), "; ")
	cas.Note = fmt.Sprintf("it doesn't reach each other port of this machine: %s. For one that it needs, as a git server's: cupel check --to %s:PORT; then, if it fails: %s",
		other.Cause, l.HostName, mend)
}

// Clean removes what a check that was killed may have left: the rest vanished with
// its process.
func Clean(id string) {
	removeTables(id)
	removeRoutes(id)
}

// unique keeps the first of several that are equal.
func unique(in []string) []string {
	var out []string
	seen := map[string]bool{}

	for _, s := range in {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}

	return out
}
