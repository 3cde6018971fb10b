package secrets

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/session"
)

// Fingerprint describes how a secret is generated: a value is kept over an update of
// the session that leaves it as it is.
func Fingerprint(s session.Secret) string {
	switch s.Kind {
	case session.ASCII, session.Binary:
		return fmt.Sprintf("%s %d", s.Kind, Size(s))
	case session.PrivateKey:
		return fmt.Sprintf("%s %s", s.Kind, keyType(s))
	default:
		b, _ := json.Marshal([]any{s.Kind, s.PrivateKey, s.Issuer, commonName(s), s.DNS, s.Endpoint, s.ValidFor}) // strings always marshal
		return string(b)
	}
}

// Size is how many bytes a generated value has.
func Size(s session.Secret) int {
	if s.Size == 0 {
		return 20
	}
	return s.Size
}

// keyType is the type of a generated key: that of the session, or P-256.
func keyType(s session.Secret) string {
	if s.KeyType == "" {
		return "P-256"
	}
	return s.KeyType
}

// commonName is the name in a certificate: as the session says, or the first DNS
// name, or the secret's.
func commonName(s session.Secret) string {
	switch {
	case s.CommonName != "":
		return s.CommonName
	case len(s.DNS) > 0:
		return s.DNS[0]
	}
	return s.Name
}

// PerInstance reports whether every instance gets a certificate of its own.
func PerInstance(s session.Secret) bool { return s.Kind == session.X509 && s.PrivateKey == "" }

// printable is what generated ascii secrets are made of: any printable
// character, which the language's authors chose.
const printable = 94 // '!' to '~'

// randomASCII is n printable characters, each as likely as any other.
func randomASCII(n int) ([]byte, error) {
	out := make([]byte, 0, n)
	buf := make([]byte, 2*n+16)
	for len(out) < n {
		if _, err := rand.Read(buf); err != nil {
			return nil, fmt.Errorf("generate secret: %w", err)
		}
		for _, b := range buf {
			if b < 2*printable && len(out) < n { // without bias
				out = append(out, '!'+b%printable)
			}
		}
	}
	return out, nil
}

// generateKey makes a key, and its PKCS #8.
func generateKey(kind string) (crypto.Signer, []byte, error) {
	var key crypto.Signer
	var err error
	switch kind {
	case "P-256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "Ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, nil, problem.New(problem.Invalid, ruleKeyType, "key type %q", kind).Want("P-256, P-384 or Ed25519")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}

	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	return key, der, nil
}

// Random is n random bytes.
func Random(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("generate secret: %w", err)
	}
	return b, nil
}
