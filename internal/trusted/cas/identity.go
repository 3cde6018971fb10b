package cas

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
)

const (
	rowIdentity = "meta/identity"
	// leafLife is how long a TLS leaf is good for; a new one is made at half of it.
	leafLife     = 24 * time.Hour
	identityLife = 30 * 365 * 24 * time.Hour
)

// Identity is the CAS's long-lived P-256 key: clients pin it, it signs the audit
// heads and the short-lived leaves of the TLS listeners.
type Identity struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	hash ident.KeyHash
	// rowKey is derived from key, for row ids that may tell nothing.
	rowKey []byte
	// grantKey is derived from key, for the tokens of grants.
	grantKey []byte

	mu   sync.Mutex
	leaf *tls.Certificate // guarded by mu
	turn time.Time        // when leaf is replaced; guarded by mu
}

// identityRecord is the row of the identity.
type identityRecord struct {
	Key         []byte `json:"key"`         // PKCS #8
	Certificate []byte `json:"certificate"` // DER
}

// newIdentity makes the identity and its row.
func newIdentity(now time.Time) (*Identity, journal.Write, error) {
	fail := func(err error) (*Identity, journal.Write, error) {
		return nil, journal.Write{}, fmt.Errorf("make the CAS's identity: %w", err)
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	serial, err := secrets.NewSerial()
	if err != nil {
		return fail(err)
	}

	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Cupel CAS"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(identityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "Cupel CAS"}}, &key.PublicKey, key)
	if err != nil {
		return fail(err)
	}

	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fail(err)
	}
	plain, err := json.Marshal(identityRecord{Key: pkcs8, Certificate: der})
	if err != nil {
		return fail(err)
	}

	id, err := parseIdentity(plain)
	if err != nil {
		return fail(err)
	}
	return id, journal.Write{ID: rowIdentity, Plain: plain}, nil
}

// loadIdentity reads the identity of a CAS that ran before.
func loadIdentity(ctx context.Context, j *journal.Journal) (*Identity, error) {
	plain, err := j.Read(ctx, rowIdentity)
	if err != nil {
		return nil, fmt.Errorf("read the CAS's identity: %w", err)
	}

	if plain == nil {
		return nil, journal.Damaged(problem.New(problem.Internal, ruleIdentityMissing, "the state has a log but no identity"))
	}
	return parseIdentity(plain)
}

// parseIdentity is the identity in a row, with the keys that are derived from it
// (HKDF, RFC 5869).
func parseIdentity(plain []byte) (*Identity, error) {
	var r identityRecord
	if err := json.Unmarshal(plain, &r); err != nil {
		return nil, fmt.Errorf("read the CAS's identity: %w", err)
	}

	k, err := x509.ParsePKCS8PrivateKey(r.Key)
	if err != nil {
		return nil, fmt.Errorf("read the CAS's identity: %w", err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read the CAS's identity: the key is a %T", k)
	}

	cert, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return nil, fmt.Errorf("read the CAS's identity: %w", err)
	}

	rowKey, err := hkdf.Key(sha256.New, r.Key, nil, "cupel/cas-version-row/v1", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("read the CAS's identity: %w", err)
	}
	grantKey, err := hkdf.Key(sha256.New, r.Key, nil, "cupel/cas-grant-token/v1", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("read the CAS's identity: %w", err)
	}
	return &Identity{
		key:      key,
		cert:     cert,
		hash:     ident.HashCertKey(cert),
		rowKey:   rowKey,
		grantKey: grantKey,
	}, nil
}

// Hash names the identity: what clients pin and launch bindings carry.
func (id *Identity) Hash() ident.KeyHash { return id.hash }

// Certificate is the identity's self-signed certificate.
func (id *Identity) Certificate() *x509.Certificate { return id.cert }

// PEM is Certificate in PEM.
func (id *Identity) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.cert.Raw}))
}

// Leaf returns the TLS certificate of the hour: leaf and identity.
func (id *Identity) Leaf(now time.Time) (*tls.Certificate, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.leaf != nil && now.Before(id.turn) && now.After(id.turn.Add(-leafLife)) {
		return id.leaf, nil
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make TLS leaf: %w", err)
	}
	serial, err := secrets.NewSerial()
	if err != nil {
		return nil, fmt.Errorf("make TLS leaf: %w", err)
	}

	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "cas-instance"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"cas", "localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}, id.cert, &key.PublicKey, id.key)
	if err != nil {
		return nil, fmt.Errorf("make TLS leaf: %w", err)
	}

	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make TLS leaf: %w", err)
	}

	id.leaf = &tls.Certificate{Certificate: [][]byte{der, id.cert.Raw}, PrivateKey: key, Leaf: leaf}
	id.turn = now.Add(leafLife / 2)
	return id.leaf, nil
}

// PublicKey is what the audit heads are verified with.
func (id *Identity) PublicKey() *ecdsa.PublicKey { return &id.key.PublicKey }
