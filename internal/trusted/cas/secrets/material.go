package secrets

import (
	"crypto"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/session"
)

// Material is a secret that has its value: given by the owner or generated here.
// Immutable.
type Material struct {
	kind  session.Kind
	bytes []byte // ascii, binary: the value; private-key: PKCS #8; x509, x509-ca: the certificate in DER
	key   crypto.Signer
	cert  *x509.Certificate
	// chain is the issuers' certificates in DER, nearest first, root last.
	chain [][]byte
}

// Given turns an owner's explicit value into material. Certificates are never
// given: the language leaves them to the CAS.
func Given(s session.Secret) (*Material, error) {
	m := &Material{kind: s.Kind, bytes: s.Value.Reveal()}
	if s.Kind != session.PrivateKey {
		return m, nil
	}

	block, _ := pem.Decode(m.bytes)
	if block == nil {
		return nil, problem.New(problem.Invalid, ruleSecretValue, "the value of secret %s is not PEM", s.Name)
	}
	return m, m.setKey(block.Bytes)
}

// setKey gives the material its key, from PKCS #8 (RFC 5208).
func (m *Material) setKey(pkcs8 []byte) error {
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

// Render writes the material in a reference's format.
func (m *Material) Render(ref session.Ref) ([]byte, error) {
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

// format writes the material in a format that its kind has.
func (m *Material) format(format string) ([]byte, error) {
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

// pemKey is a PKCS #8 key in PEM (RFC 7468, section 10).
func pemKey(pkcs8 []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// pemCerts are certificates in PEM, one after the other (RFC 7468, section 5).
func pemCerts(ders ...[]byte) []byte {
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// Public is the material of a secret that its session exports, for whoever asks.
func (m *Material) Public(sec session.Secret) (owners.Value, error) {
	if m.kind == session.Binary {
		return owners.Value{Kind: "binary", Value: base64.StdEncoding.EncodeToString(m.bytes)}, nil
	}
	b, err := m.Render(session.Ref{Secret: sec.Name})
	if err != nil {
		return owners.Value{}, fmt.Errorf("public value %s: %w", sec.Name, err)
	}

	v := owners.Value{Kind: string(sec.Kind), Value: string(b)}
	if sec.Kind == session.ASCII {
		v.Kind = "string"
	}

	if m.cert != nil {
		expires := m.cert.NotAfter.UTC()
		v.Expires = &expires
		if sec.Kind != session.X509CA {
			renew := renewAt(m.cert).UTC()
			v.Renew = &renew
		}
	}
	return v, nil
}
