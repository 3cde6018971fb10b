package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cupel.dev/cupel/client/manager"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/owner"
	"cupel.dev/cupel/internal/trusted/problem"
)

// providerPort is the port of a manager's API where the address names none.
const providerPort = "5000"

// managerAt is the manager that a command talks to: this machine's, as its state
// folder tells, or a provider's, as --provider names it. Nobody trusts either; of a
// provider it is known whether it is the same one as before.
type managerAt struct {
	manager.Endpoint
	options manager.Options // how it is known
	host    string          // of a provider's machine, as the owner names it; empty: this machine

	// operator is the key by which a provider claims grants; zero: this machine's
	// manager, which nobody has to tell from another.
	operator ident.KeyHash
}

// remote says whether it is another machine's.
func (m managerAt) remote() bool { return m.host != "" }

// dial returns a client of it, under a key (nil: none).
func (m managerAt) dial(cert *tls.Certificate) *manager.Client {
	opts := m.options
	opts.Certificate = cert
	return manager.New(m.Address, opts)
}

// appAddress is where users reach an app of it.
func (m managerAt) appAddress(port uint16) string {
	host := "localhost"
	if h, _, err := net.SplitHostPort(m.Address); err == nil {
		if ip := net.ParseIP(h); ip != nil && !ip.IsUnspecified() && !ip.IsLoopback() {
			host = h
		}
	}
	return net.JoinHostPort(orElse(m.host, host), strconv.Itoa(int(port)))
}

// manager finds the manager to talk to.
func (g *globals) manager(ctx context.Context) (managerAt, error) {
	if g.provider != "" {
		return g.providerAt(ctx, g.provider)
	}
	e, err := manager.ReadEndpoint(g.state)
	if err != nil {
		return managerAt{}, noManager(err)
	}
	return managerAt{Endpoint: e, options: manager.Options{CertSHA256: e.CertSHA256}}, nil
}

// noManager adds to a folder without a manager that there may be one elsewhere.
func noManager(err error) error {
	p := problem.From(err)
	if p.Rule != "manager" {
		return err
	}
	q := *p
	return q.Fix("%s; of another machine: --provider URL", p.Mend)
}

// providerAt asks a provider where its parts listen. At the first time its
// certificate and its operator's key are kept; from then on nobody else is taken
// for it.
func (g *globals) providerAt(ctx context.Context, text string) (managerAt, error) {
	addr, err := providerAddress(text)
	if err != nil {
		return managerAt{}, err
	}
	dir, err := g.ownerDir()
	if err != nil {
		return managerAt{}, err
	}
	known, err := dir.Providers()
	if err != nil {
		return managerAt{}, err
	}
	pin, again := known[addr]
	if !again {
		if pin, err = firstSeen(ctx, addr); err != nil {
			return managerAt{}, err
		}
	}

	at := managerAt{options: manager.Options{Remote: true}}
	if pin.Certificate != nil {
		at.options.CertSHA256 = *pin.Certificate
	}
	m := manager.New(addr, at.options)
	defer m.Close()
	info, err := m.Info(ctx)
	if err != nil {
		return managerAt{}, changedProvider(err, addr)
	}
	if info.OperatorKey.IsZero() {
		return managerAt{}, problem.New(problem.Unauthenticated, "provider_key", "the provider at %s names no key by which it claims grants", addr).
			Want("the operator's key, as `cupel info` shows it on the operator's machine").
			Fix("a grant that names nobody could be claimed by anybody: ask the operator, whose manager may be of an older release")
	}
	if !again {
		seen := pin.Certificate
		pin.OperatorKey, pin.Since = info.OperatorKey, g.now().UTC()
		if pin, err = g.keepProvider(ctx, dir, addr, pin); err != nil {
			return managerAt{}, err
		}
		if certificateText(pin.Certificate) != certificateText(seen) {
			return managerAt{}, problem.New(problem.Unauthenticated, "provider_certificate", "the certificate at %s: %s", addr, certificateText(seen)).
				Want("%s, as another command kept it meanwhile", certificateText(pin.Certificate)).Fix("%s", forgetProvider(addr))
		}
	}
	if info.OperatorKey != pin.OperatorKey {
		return managerAt{}, problem.New(problem.Unauthenticated, "provider_key", "the provider at %s claims grants with the key %s", addr, info.OperatorKey).
			Want("%s, as it said on %s", pin.OperatorKey, pin.Since.Format("2006-01-02")).Fix("%s", forgetProvider(addr))
	}
	at.operator = pin.OperatorKey
	at.endpoint(addr, info)
	return at, nil
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
	info.CAS, info.Registry, info.Parts = m.CAS, "", []manager.Part{
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

func certificateText(pinned *ident.Digest) string {
	if pinned == nil {
		return "by a public authority"
	}
	return pinned.String()
}

// hostOf is an address with another host.
func hostOf(host, addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return net.JoinHostPort(host, port)
}

// firstSeen looks at who answers at an address that is not known yet.
func firstSeen(ctx context.Context, addr string) (owner.Provider, error) {
	shown, err := manager.ShownAt(ctx, addr)
	if err != nil || shown.Public {
		return owner.Provider{}, err
	}
	return owner.Provider{Certificate: &shown.SHA256}, nil
}

// keepProvider keeps a provider that answered for the first time, and returns what
// is kept: another command may have been faster.
func (g *globals) keepProvider(ctx context.Context, dir *owner.Dir, addr string, pin owner.Provider) (owner.Provider, error) {
	met := true
	err := dir.UpdateProviders(ctx, func(all owner.Providers) error {
		if first, ok := all[addr]; ok {
			pin, met = first, false
			return nil
		}
		all[addr] = pin
		return nil
	})
	if err != nil || !met {
		return pin, err
	}
	const compare = "Compare with what `cupel info` shows on the operator's machine. Another one is refused from now on."
	if pin.Certificate == nil {
		g.warnf("The provider at %s is new here. A public authority vouches for its name; its operator's key is kept:\n  operator's key  %s\n"+compare, addr, pin.OperatorKey)
	} else {
		g.warnf("The provider at %s is new here. No public authority vouches for it, so what it shows now is kept:\n  certificate     %s\n  operator's key  %s\n"+compare,
			addr, pin.Certificate, pin.OperatorKey)
	}
	return pin, nil
}

// changedProvider says of a provider with another certificate than the kept one what
// that can mean, and the way out.
func changedProvider(err error, addr string) error {
	p := problem.From(err)
	if p.Rule != manager.RuleCertificate {
		return err
	}
	q := *p
	q.Rule = "provider_certificate"
	return q.Fix("%s", forgetProvider(addr))
}

func forgetProvider(addr string) string {
	return "somebody else may answer there: ask the operator, who sees both with `cupel info`. Only if they say that it changed: cupel provider forget " + addr
}

// providerAddress reads a provider's address, https://HOST[:PORT] or HOST[:PORT].
func providerAddress(text string) (string, error) {
	bad := func(why string) (string, error) {
		return "", problem.New(problem.Invalid, "provider_address", "the provider's address is %s", why).
			Want("https://HOST[:PORT]").Fix("give --provider, or CUPEL_PROVIDER, the address of the operator's manager")
	}
	whole := text
	if !strings.Contains(text, "://") {
		whole = "https://" + text
	}
	u, err := url.Parse(whole)
	if err != nil {
		return bad("none") // it may hold a password: it isn't repeated
	}
	switch {
	case !strings.EqualFold(u.Scheme, "https"):
		return bad("not one of https")
	case u.User != nil:
		return bad("with a user or password, which nobody asks for")
	case u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return bad("not a host and port alone")
	}
	port := orElse(u.Port(), providerPort)
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return bad("with a port that can't be")
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port), nil
}

// settleProvider decides between a provider and a state folder: a flag wins over the
// environment, and two flags are one too many.
func (g *globals) settleProvider(root *cobra.Command) error {
	f := root.PersistentFlags()
	g.providerGiven = f.Changed("provider")
	switch {
	case g.providerGiven && f.Changed("state"):
		return problem.New(problem.Invalid, "usage", "--provider and --state").Want("one of them").
			Fix("--state is the folder of this machine's manager, --provider the address of another's")
	case f.Changed("state"):
		g.provider = ""
	}
	return nil
}

// here refuses --provider for what only this machine's operator can do.
func (g *globals) here() error {
	if g.providerGiven {
		return problem.New(problem.Invalid, "usage", "--provider with a command of this machine's operator").
			Fix("leave it out, or run the command on the provider's machine")
	}
	return nil
}

func newProviderCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "provider",
		Short: "The operators of other machines that you talked to",
		Args:  cobra.NoArgs,
	}
	c.AddCommand(newProviderListCommand(g), newProviderForgetCommand(g))
	return c
}

func newProviderListCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the providers that are known here, and by what",
		Example: "  cupel provider list -o json",
		Args:    exactArgs(),
		RunE:    func(*cobra.Command, []string) error { return runProviderList(g) },
	}
}

func runProviderList(g *globals) error {
	dir, err := g.ownerDir()
	if err != nil {
		return err
	}
	known, err := dir.Providers()
	if err != nil {
		return err
	}
	if g.json() {
		return g.printJSON(known)
	}
	var rows [][]string
	for _, addr := range sortedKeys(known) {
		p := known[addr]
		rows = append(rows, []string{addr, certificateText(p.Certificate), p.OperatorKey.String(), g.age(p.Since)})
	}
	return g.table([]string{"ADDRESS", "CERTIFICATE", "OPERATOR'S KEY", "SINCE"}, rows)
}

func newProviderForgetCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "forget ADDRESS",
		Short: "Forget a provider that changed for a reason that you know",
		Long: `Forgets certificate and operator's key of a provider: the next command that talks
to it keeps what it shows then. Do this only when its operator told you why they
changed, over another road than this address.`,
		Example:           "  cupel provider forget provider.example.org",
		Args:              exactArgs("ADDRESS"),
		ValidArgsFunction: g.completeProviders,
		RunE:              func(c *cobra.Command, args []string) error { return runProviderForget(c.Context(), g, args[0]) },
	}
}

// errUnknownProvider ends a change that would change nothing.
var errUnknownProvider = errors.New("not known")

func runProviderForget(ctx context.Context, g *globals, text string) error {
	addr, err := providerAddress(text)
	if err != nil {
		return err
	}
	dir, err := g.ownerDir()
	if err != nil {
		return err
	}
	var was owner.Provider
	err = dir.UpdateProviders(ctx, func(all owner.Providers) error {
		first, known := all[addr]
		if !known {
			return errUnknownProvider
		}
		was = first
		delete(all, addr)
		return nil
	})
	if errors.Is(err, errUnknownProvider) {
		return problem.New(problem.NotFound, "provider", "no provider at %s is known here", addr).Fix("see 'cupel provider list'")
	}
	if err != nil {
		return err
	}
	if g.json() {
		return g.printJSON(owner.Providers{addr: was})
	}
	g.printf("%s is forgotten; the next command that talks to it keeps what it shows then.\n", addr)
	return nil
}

// completes says whether a completion may ask the manager: it pins nobody.
func (g *globals) completes() bool {
	if g.provider == "" {
		return true
	}
	addr, err := providerAddress(g.provider)
	if err != nil {
		return false
	}
	dir, err := g.ownerDir()
	if err != nil {
		return false
	}
	known, err := dir.Providers()
	_, ok := known[addr]
	return err == nil && ok
}

// completeProviders offers the providers that are known.
func (g *globals) completeProviders(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	g.completing = true
	dir, err := g.ownerDir()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	known, err := dir.Providers()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return clean(sortedKeys(known)), cobra.ShellCompDirectiveNoFileComp
}

// elsewhere tells where users on other machines find the app, and whether its
// certificate is for that name.
func (d *deployment) elsewhere(app manager.App, answers answerKind) error {
	host := orElse(d.at.host, d.at.Outside)
	if host == "" {
		return nil
	}
	records, err := d.side.dir.Sessions()
	if err != nil {
		return err
	}
	record, mine := records[d.session]
	names := record.DNS
	if len(names) == 0 {
		names = []string{"localhost"}
	}

	otherName := mine && !answers.unproven() && !certified(names, host)
	address := net.JoinHostPort(host, strconv.Itoa(int(app.Port)))
	switch {
	case !d.at.remote() && otherName:
		d.g.printf("from other machines at %s, by a name that the certificate has; now that is %s (--dns NAME)\n", address, strings.Join(names, ", "))
	case !d.at.remote():
		d.g.printf("from other machines at %s\n", address)
	case otherName:
		d.g.warnf("The app's certificate is for %s, and not for %s: for users who go there, update the session with --dns %s and deploy again.",
			strings.Join(names, ", "), host, host)
	}
	return nil
}

// certified says whether a certificate for these names is one for the host.
func certified(names []string, host string) bool {
	var cert x509.Certificate
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, name)
		}
	}
	return cert.VerifyHostname(host) == nil
}
