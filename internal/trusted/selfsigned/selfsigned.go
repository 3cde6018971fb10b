// Package selfsigned makes the certificates that carry a key of Cupel's through a TLS
// handshake. Only the key in them counts: whoever meets one compares its hash with what is
// expected, and looks at no name.
//
// It owns no key and trusts nothing. Safe for concurrent use.
package selfsigned

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// Certificate says what stands in a certificate beside the key (RFC 5280).
type Certificate struct {
	Name      string // for people who look at it
	NotBefore time.Time
	NotAfter  time.Time
	Usages    []x509.ExtKeyUsage
	DNSNames  []string
}

// Sign returns the certificate in DER, for key and signed by it.
func (c Certificate) Sign(key *ecdsa.PrivateKey) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: c.Name},
		NotBefore:             c.NotBefore.UTC(),
		NotAfter:              c.NotAfter.UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           c.Usages,
		DNSNames:              c.DNSNames,
		BasicConstraintsValid: true,
	}

	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", c.Name, err)
	}
	return der, nil
}
