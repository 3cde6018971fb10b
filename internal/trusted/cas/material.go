package cas

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/session"
)

// material is a secret that has its value: given by the owner or generated here.
// Immutable.
type material struct {
	kind  session.Kind
	bytes []byte // ascii, binary: the value; private-key: PKCS #8; x509, x509-ca: the certificate in DER
	key   crypto.Signer
	cert  *x509.Certificate
	// chain is the issuers' certificates in DER, nearest first, root last.
	chain [][]byte
}

// secretRecord is the row of a generated secret. Fingerprint covers what must
// stay for the value to be kept over a session update.
type secretRecord struct {
	Fingerprint string   `json:"fingerprint"`
	Value       []byte   `json:"value"`
	Key         []byte   `json:"key,omitempty"` // x509 kinds: the certificate's own key, where no private-key secret holds it
	Chain       [][]byte `json:"chain,omitempty"`
}

// fingerprint describes how a secret is generated.
func fingerprint(s session.Secret) string {
	switch s.Kind {
	case session.ASCII, session.Binary:
		return fmt.Sprintf("%s %d", s.Kind, sizeOf(s))
	case session.PrivateKey:
		return fmt.Sprintf("%s %s", s.Kind, keyType(s))
	default:
		b, _ := json.Marshal([]any{s.Kind, s.PrivateKey, s.Issuer, commonName(s), s.DNS, s.Endpoint, s.ValidFor}) // strings always marshal
		return string(b)
	}
}

func sizeOf(s session.Secret) int {
	if s.Size == 0 {
		return 20
	}
	return s.Size
}

func keyType(s session.Secret) string {
	if s.KeyType == "" {
		return "P-256"
	}
	return s.KeyType
}

func commonName(s session.Secret) string {
	switch {
	case s.CommonName != "":
		return s.CommonName
	case len(s.DNS) > 0:
		return s.DNS[0]
	}
	return s.Name
}

// perInstance reports whether every instance gets a certificate of its own.
func perInstance(s session.Secret) bool { return s.Kind == session.X509 && s.PrivateKey == "" }

// given turns an owner's explicit value into material. Certificates are never
// given: the language leaves them to the CAS.
func given(s session.Secret) (*material, error) {
	m := &material{kind: s.Kind, bytes: s.Value.Reveal()}
	if s.Kind != session.PrivateKey {
		return m, nil
	}
	block, _ := pem.Decode(m.bytes)
	if block == nil {
		return nil, problem.New(problem.Invalid, ruleSecretValue, "the value of secret %s is not PEM", s.Name)
	}
	return m, m.setKey(block.Bytes)
}

func (m *material) setKey(pkcs8 []byte) error {
	k, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return err
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return fmt.Errorf("a %T can't sign", k)
	}
	m.bytes, m.key = pkcs8, signer
	return nil
}

// restore turns a row back into material.
func restore(s session.Secret, r secretRecord) (*material, error) {
	m := &material{kind: s.Kind, bytes: r.Value, chain: r.Chain}
	switch s.Kind {
	case session.PrivateKey:
		return m, m.setKey(r.Value)
	case session.X509, session.X509CA:
		cert, err := x509.ParseCertificate(r.Value)
		if err != nil {
			return nil, err
		}
		m.cert = cert
		if r.Key != nil {
			if err := m.setKey(r.Key); err != nil {
				return nil, err
			}
			m.bytes = r.Value
		}
	}
	return m, nil
}

// printable is what generated ascii secrets are made of: any printable
// character, which the language's authors chose.
const printable = 94 // '!' to '~'

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
func issue(t *x509.Certificate, key crypto.Signer, issuer *material) (der []byte, chain [][]byte, err error) {
	if t.SerialNumber, err = newSerial(); err != nil {
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

// render writes the material in a reference's format.
func (m *material) render(ref session.Ref) ([]byte, error) {
	format, ok := session.CanonicalFormat(m.kind, ref.Format)
	if !ok {
		return nil, problem.New(problem.Invalid, ruleSecretFormat, "a secret of kind %s has no format %q", m.kind, ref.Format)
	}
	out, err := m.format(format)
	if err != nil {
		return nil, err
	}
	if ref.Encoding == "escape(json)" {
		quoted, err := json.Marshal(string(out))
		if err != nil {
			return nil, fmt.Errorf("escape secret %s: %w", ref.Secret, err)
		}
		out = quoted[1 : len(quoted)-1]
	}
	return out, nil
}

func (m *material) format(format string) ([]byte, error) {
	switch format {
	case "text", "bin":
		return m.bytes, nil
	case "hex":
		return []byte(hex.EncodeToString(m.bytes)), nil
	case "base64":
		return []byte(base64.StdEncoding.EncodeToString(m.bytes)), nil
	case "base64url":
		return []byte(base64.URLEncoding.EncodeToString(m.bytes)), nil
	case "base32":
		return []byte(base32.StdEncoding.EncodeToString(m.bytes)), nil
	case "base32nopad":
		return []byte(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(m.bytes)), nil
	case "pkcs8:pem":
		return pemKey(m.bytes), nil
	case "pkcs8:der", "crt:der":
		return m.bytes, nil
	case "crt:pem":
		return pemCerts(m.bytes), nil
	case "chain":
		return pemCerts(m.chain...), nil
	case "privatekey:pkcs8:pem", "privatekey:pkcs8:der":
		if m.key == nil {
			return nil, problem.New(problem.Invalid, ruleSecretFormat, "the session holds no private key for this certificate").
				Fix("name the private-key secret in private_key")
		}
		der, err := x509.MarshalPKCS8PrivateKey(m.key)
		if err != nil {
			return nil, fmt.Errorf("marshal private key: %w", err)
		}
		if format == "privatekey:pkcs8:pem" {
			return pemKey(der), nil
		}
		return der, nil
	}
	return nil, problem.New(problem.Invalid, ruleSecretFormat, "format %q is not known", format)
}

func pemKey(pkcs8 []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func pemCerts(ders ...[]byte) []byte {
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
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
	case perInstance(s):
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
