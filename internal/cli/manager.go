package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
)

// managerAt is the manager that a command talks to: this machine's, as its state
// folder tells, or a provider's, as --provider names it. Nobody trusts either; of a
// provider it is known whether it is the same one as before.
type managerAt struct {
	manager.Endpoint
	options client.ManagerOptions // how it is known
	host    string                // of a provider's machine, as the owner names it; empty: this machine

	// operator is the key by which a provider claims grants; zero: this machine's
	// manager, which nobody has to tell from another.
	operator ident.KeyHash
}

// remote says whether it is another machine's.
func (m managerAt) remote() bool { return m.host != "" }

// dial returns a client of it, under a key (nil: none).
func (m managerAt) dial(cert *tls.Certificate) *client.Manager {
	opts := m.options
	opts.Certificate = cert
	return client.NewManager(ident.Address(m.Address), opts)
}

// operatorKey is the key by which its operator claims grants: a provider's is known, and
// this machine's manager says its own. Zero: it has none.
func (m managerAt) operatorKey(ctx context.Context, c *client.Manager) (ident.KeyHash, error) {
	if m.remote() {
		return m.operator, nil
	}
	info, err := c.Info(ctx)
	return info.OperatorKey, err
}

// appAddress is where users reach an app of it.
func (m managerAt) appAddress(port uint16) string {
	host := "localhost"
	if h, _, err := net.SplitHostPort(m.Address); err == nil {
		if ip := net.ParseIP(h); ip != nil && !ip.IsUnspecified() && !ip.IsLoopback() {
			host = h
		}
	}
	return net.JoinHostPort(cmp.Or(m.host, host), strconv.Itoa(int(port)))
}

// manager finds the manager to talk to.
func (g *globals) manager(ctx context.Context) (managerAt, error) {
	if g.provider != "" {
		return g.providerAt(ctx, g.provider)
	}

	e, err := client.ReadEndpoint(g.state)
	if err != nil {
		return managerAt{}, noManager(err)
	}
	return managerAt{
		Endpoint: e,
		options: client.ManagerOptions{
			CertSHA256: e.CertSHA256,
			PID:        e.PID,
			Source:     g.localSource(),
		},
	}, nil
}

// localSource is whose word the problems of this machine's manager are: who can read the
// operator's key is the operator, and gets no advice of somebody else.
func (g *globals) localSource() problem.Source {
	f, err := os.Open(filepath.Join(g.state, "operator.key"))
	if err != nil {
		return problem.Operator
	}
	_ = f.Close()
	return ""
}

// noManager adds to a folder without a manager that there may be one elsewhere.
func noManager(err error) error {
	p := problem.From(err)
	if p.Rule != client.RuleAway {
		return err
	}

	q := *p
	return q.Fix("%s; of another machine: --provider URL", p.Mend)
}

// endpoint notes where the provider's parts are reached from here: under the name
// that its owner gave, at the ports that it says. It may know its own machine by
// other names only.
func (m *managerAt) endpoint(addr string, info manager.Info) {
	m.host, _, _ = net.SplitHostPort(addr) // providerAddress made it
	m.Endpoint = manager.Endpoint{
		Version:    info.Version,
		Address:    addr,
		CertSHA256: m.options.CertSHA256,
		CAS: manager.CAS{
			Owners:    hostOf(m.host, info.CAS.Owners),
			Instances: hostOf(m.host, info.CAS.Instances),
			Identity:  info.CAS.Identity,
		},
		Simulation: info.Simulation,
	}
}

// seenFromHere leaves of what a provider says about itself what others reach, under
// the name that its owner gave.
func (m managerAt) seenFromHere(info *manager.Info) {
	if !m.remote() {
		return
	}
	info.CAS = m.CAS
	info.Registry = ""
	info.Parts = []manager.Part{
		{Name: "manager API", Address: m.Address},
		{Name: "CAS, owners", Address: m.CAS.Owners, Note: "identity " + m.CAS.Identity.String()},
		{Name: "CAS, instances", Address: m.CAS.Instances},
	}
}

// pinned is the certificate that the manager is known by; nil where a public authority
// vouches for its name.
func (m managerAt) pinned() *ident.Digest {
	if m.CertSHA256.IsZero() {
		return nil
	}
	return &m.CertSHA256
}

// certificate is what the manager is known by, for people.
func (m managerAt) certificate() string { return certificateText(m.pinned()) }

// hostOf is an address with another host.
func hostOf(host, addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return net.JoinHostPort(host, port)
}

// managerAs says with whose key a command talks to the manager.
type managerAs struct {
	g     *globals
	owner bool // --as-owner: not as the operator, even where we could
}

func (m *managerAs) flags(c *cobra.Command) {
	c.Flags().BoolVar(&m.owner, "as-owner", false, "use the owner's key even where the operator's can be read: see and touch only your own apps")
}

// dial returns a client of the manager: of this machine's as its operator if this
// user can read the operator's key, else as the owner; of a provider's as the owner.
func (m *managerAs) dial(ctx context.Context) (*client.Manager, managerAt, error) {
	at, err := m.g.manager(ctx)
	if err != nil {
		return nil, at, err
	}
	cert, err := m.certificate(ctx, at)
	if err != nil {
		return nil, at, err
	}
	return at.dial(cert), at, nil
}

func (m *managerAs) certificate(ctx context.Context, at managerAt) (*tls.Certificate, error) {
	if !m.owner && !at.remote() {
		pair, err := tls.LoadX509KeyPair(filepath.Join(m.g.state, "operator.crt"), filepath.Join(m.g.state, "operator.key"))
		if err == nil {
			return &pair, nil
		}
		if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
			return nil, problem.New(problem.Invalid, ruleOperatorKey, "%w", err).Fix("give --as-owner; or run cupel up again: it makes a damaged operator.crt anew, and says what to do about a damaged operator.key")
		}
	}

	dir, err := m.g.ownerDir()
	if err != nil {
		return nil, err
	}

	id, err := m.g.identity(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &id.Certificate, nil
}
