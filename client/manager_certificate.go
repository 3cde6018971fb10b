package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// tlsConfig accepts one certificate, or, where none is named, those that a public
// authority made for the host in the address.
func tlsConfig(addr ident.Address, opts ManagerOptions) *tls.Config {
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The certificate is checked below, and no session is resumed without that.
		InsecureSkipVerify:     true, //nolint:gosec // see above
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return problem.New(problem.Unauthenticated, RuleCertificate, "the manager at %s shows no certificate", addr)
			}
			if opts.CertSHA256.IsZero() {
				return vouched(addr, state.PeerCertificates)
			}
			if got := ident.Sum(state.PeerCertificates[0].Raw); got != opts.CertSHA256 {
				return problem.New(problem.Unauthenticated, RuleCertificate, "another manager answers at %s, with certificate %s", addr, got).
					Want("certificate %s", opts.CertSHA256).Fix("find out who listens there, or restart the manager with cupel up")
			}
			return nil
		},
	}

	if host, _, err := net.SplitHostPort(string(addr)); err == nil && net.ParseIP(host) == nil {
		conf.ServerName = host
	}

	if opts.Certificate != nil {
		conf.Certificates = []tls.Certificate{*opts.Certificate}
	}

	return conf
}

// vouched checks that a public authority which this machine trusts made a
// certificate for the host of an address.
func vouched(addr ident.Address, chain []*x509.Certificate) error {
	host, _, err := net.SplitHostPort(string(addr))
	if err != nil {
		return problem.New(problem.Invalid, ruleManagerAddress, "%w", err)
	}

	others := x509.NewCertPool()
	for _, c := range chain[1:] {
		others.AddCert(c)
	}

	_, err = chain[0].Verify(x509.VerifyOptions{DNSName: host, Intermediates: others})
	if err != nil {
		return problem.New(problem.Unauthenticated, RuleCertificate, "no public authority vouches for the certificate at %s: %w", addr, err).
			Want("a certificate for %s by an authority that this machine trusts", host).Fix("find out who listens there")
	}

	return nil
}

// Shown is the certificate that a manager shows to whoever connects.
type Shown struct {
	SHA256 ident.Digest
	// Public says that an authority which this machine trusts made it for the host
	// in the address.
	Public bool
}

// ShownAt asks for the certificate of the manager at addr, HOST:PORT. It proves
// nothing about who listens there, unless it is Public.
//
// Errors: unavailable with RuleAway where nobody answers; unauthenticated with RuleCertificate
// where there is none.
func ShownAt(ctx context.Context, addr ident.Address) (Shown, error) {
	conf := tlsConfig(addr, ManagerOptions{})
	conf.VerifyConnection = nil
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: conf}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()

	conn, err := d.DialContext(ctx, "tcp", string(addr))
	if err != nil {
		return Shown{}, problem.New(problem.Unavailable, RuleAway, "no manager answers at %s: %w", addr, err).
			Fix("check the address (its port is 5000 unless the operator chose another) and the network between here and there")
	}
	defer func() { _ = conn.Close() }()

	tc, ok := conn.(*tls.Conn)
	if !ok {
		return Shown{}, errors.New("no TLS connection")
	}

	chain := tc.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return Shown{}, problem.New(problem.Unauthenticated, RuleCertificate, "the manager at %s shows no certificate", addr)
	}

	return Shown{SHA256: ident.Sum(chain[0].Raw), Public: vouched(addr, chain) == nil}, nil
}
