package cli

import (
	"cmp"
	"context"
	"net"
	"net/url"
	"strconv"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/trusted/owner/home"
)

// providerPort is the port of a manager's API where the address names none.
const providerPort = "5000"

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

	at := managerAt{options: client.ManagerOptions{Remote: true, Source: problem.Operator}}
	if pin.Certificate != nil {
		at.options.CertSHA256 = *pin.Certificate
	}

	m := client.NewManager(ident.Address(addr), at.options)
	defer m.Close()
	info, err := m.Info(ctx)
	if err != nil {
		return managerAt{}, changedProvider(err, addr)
	}

	if info.OperatorKey.IsZero() {
		return managerAt{}, problem.New(problem.Unauthenticated, ruleProviderKey, "the provider at %s names no key by which it claims grants", addr).
			Want("the operator's key, as `cupel info` shows it on the operator's machine").
			Fix("a grant that names nobody could be claimed by anybody: ask the operator, whose manager may be of an older release")
	}

	if !again {
		seen := pin.Certificate
		pin.OperatorKey = info.OperatorKey
		pin.Since = g.now().UTC()
		if pin, err = g.keepProvider(ctx, dir, addr, pin); err != nil {
			return managerAt{}, err
		}

		if certificateText(pin.Certificate) != certificateText(seen) {
			return managerAt{}, problem.New(problem.Unauthenticated, ruleProviderCertificate, "the certificate at %s: %s", addr, certificateText(seen)).
				Want("%s, as another command kept it meanwhile", certificateText(pin.Certificate)).Fix("%s", forgetProvider(addr))
		}
	}

	if info.OperatorKey != pin.OperatorKey {
		return managerAt{}, problem.New(problem.Unauthenticated, ruleProviderKey, "the provider at %s claims grants with the key %s", addr, info.OperatorKey).
			Want("%s, as it said on %s", pin.OperatorKey, pin.Since.Format("2006-01-02")).Fix("%s", forgetProvider(addr))
	}

	at.operator = pin.OperatorKey
	at.endpoint(addr, info)
	return at, nil
}

func certificateText(pinned *ident.Digest) string {
	if pinned == nil {
		return "by a public authority"
	}
	return pinned.String()
}

// firstSeen looks at who answers at an address that is not known yet.
func firstSeen(ctx context.Context, addr string) (home.Provider, error) {
	shown, err := client.ShownAt(ctx, ident.Address(addr))
	if err != nil || shown.Public {
		return home.Provider{}, err
	}
	return home.Provider{Certificate: &shown.SHA256}, nil
}

// keepProvider keeps a provider that answered for the first time, and returns what
// is kept: another command may have been faster.
func (g *globals) keepProvider(ctx context.Context, dir *home.Dir, addr string, pin home.Provider) (home.Provider, error) {
	met := true
	err := dir.UpdateProviders(ctx, func(all home.Providers) error {
		if first, ok := all[addr]; ok {
			pin = first
			met = false
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
	if p.Rule != client.RuleCertificate {
		return err
	}
	q := *p
	q.Rule = ruleProviderCertificate
	return q.Fix("%s", forgetProvider(addr))
}

func forgetProvider(addr string) string {
	return "somebody else may answer there: ask the operator, who sees both with `cupel info`. Only if they say that it changed: cupel provider forget " + addr
}

// providerAddress reads a provider's address, https://HOST[:PORT] or HOST[:PORT].
func providerAddress(text string) (string, error) {
	bad := func(why string) (string, error) {
		return "", problem.New(problem.Invalid, ruleProviderAddress, "the provider's address is %s", why).
			Want("https://HOST[:PORT]").Fix("give --provider, or CUPEL_PROVIDER, the address of the operator's manager")
	}

	text = strings.TrimSpace(text)
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

	port := cmp.Or(u.Port(), providerPort)
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return bad("with a port that can't be")
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port), nil
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
