package secrets

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/session"
)

// certTemplate is a certificate for s but for its key, serial and URI.
func certTemplate(s session.Secret, now time.Time) (*x509.Certificate, error) {
	life, err := validFor(s)
	if err != nil {
		return nil, err
	}

	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName(s)},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	if s.Kind == session.X509CA {
		t.IsCA = true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
		return t, nil
	}

	for _, n := range s.DNS {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}

	switch s.Endpoint {
	case "server":
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case "client":
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	return t, nil
}

// How long certificates are good for whose session does not say, and at most. A
// stolen key of an instance is worth something for a day; one that a session
// holds, and so every copy, for a season. A certificate authority is what users
// have pinned: it is never replaced by itself.
const (
	ownLife   = 24 * time.Hour
	keyedLife = 90 * 24 * time.Hour
	caLife    = 10 * 365 * 24 * time.Hour
	maxLife   = 50 * 365 * 24 * time.Hour
)

// issue signs a certificate for key: by issuer, or by itself if there is none.
func issue(t *x509.Certificate, key crypto.Signer, issuer *Material) (der []byte, chain [][]byte, err error) {
	if t.SerialNumber, err = NewSerial(); err != nil {
		return nil, nil, err
	}

	parent, signer := t, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
		chain = append([][]byte{issuer.cert.Raw}, issuer.chain...)
	}

	der, err = x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate: %w", err)
	}
	return der, chain, nil
}

// validFor is how long a certificate is good for.
func validFor(s session.Secret) (time.Duration, error) {
	if s.ValidFor != "" {
		d, err := session.ParseValidity(s.ValidFor)
		if err != nil {
			return 0, problem.New(problem.Invalid, ruleValidFor, "secret %s: %w", s.Name, err)
		}
		return min(d, maxLife), nil
	}

	switch {
	case s.Kind == session.X509CA:
		return caLife, nil
	case PerInstance(s):
		return ownLife, nil
	}
	return keyedLife, nil
}

// backdated is how long before its issue a certificate is good already, for
// clocks that are behind.
const backdated = 5 * time.Minute

// renewAt is when half of a certificate's life is over: from then on it is due.
func renewAt(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
}

// due reports whether a kept certificate has to be issued again: half of its life
// is over, or it was issued for longer than the session now lets it live.
func due(s session.Secret, c *x509.Certificate, now time.Time) (bool, error) {
	if s.Kind == session.X509CA {
		return false, nil
	}
	life, err := validFor(s)
	if err != nil {
		return false, err
	}
	return !now.Before(renewAt(c)) || c.NotAfter.Sub(c.NotBefore) > life+backdated+time.Minute, nil
}

// NewSerial is the serial number of a certificate: 127 random bits: positive, and 16 bytes at most.
func NewSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}
