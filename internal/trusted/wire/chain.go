package wire

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// ClockSkew is how far the clocks of a CAS and of those who talk to it may lie
// apart.
const ClockSkew = 5 * time.Minute

// CASIdentity is who a CAS proved to be by its TLS chain.
type CASIdentity struct {
	Hash ident.KeyHash
	Key  *ecdsa.PublicKey
}

// VerifyCASChain checks the certificates that a CAS presented on a TLS
// connection: a short-lived leaf, signed by the identity certificate that
// follows it, which signs itself. Names are not looked at: whoever connects
// compares the Identity with the one that is expected.
func VerifyCASChain(certs []*x509.Certificate, now time.Time) (CASIdentity, error) {
	refuse := func(format string, args ...any) (CASIdentity, error) {
		return CASIdentity{}, problem.New(problem.Unauthenticated, ruleCASChain, format, args...).
			Want("a TLS leaf and the CAS's identity certificate that signed it").
			Fix("check the address: what answers there is no CAS")
	}

	if len(certs) != 2 {
		return refuse("the server presented %d certificates", len(certs))
	}

	leaf, identity := certs[0], certs[1]
	key, ok := identity.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return refuse("the identity key is not ECDSA P-256")
	}
	if leaf.IsCA || !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return refuse("the leaf is not for TLS servers")
	}

	if err := identity.CheckSignatureFrom(identity); err != nil {
		return refuse("identity certificate: %w", err)
	}
	if !bytes.Equal(leaf.RawIssuer, identity.RawSubject) {
		return refuse("the leaf names another issuer, %q", leaf.Issuer)
	}

	if err := leaf.CheckSignatureFrom(identity); err != nil {
		return refuse("leaf: %w", err)
	}
	for _, c := range certs {
		if now.Before(c.NotBefore.Add(-ClockSkew)) || now.After(c.NotAfter.Add(ClockSkew)) {
			return CASIdentity{}, problem.New(problem.Unauthenticated, ruleCASChain, "certificate %q is good from %s until %s, and the clock says %s", c.Subject.CommonName,
				c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)).
				Fix("set the clocks of this machine and of the CAS's right")
		}
	}
	return CASIdentity{Hash: ident.HashCertKey(identity), Key: key}, nil
}
