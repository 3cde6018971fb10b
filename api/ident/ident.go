package ident

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Digest is a SHA-256 over bytes that the context names. Text form: 64 hex digits.
type Digest [32]byte

// Measurement is the identity of measured code: MRENCLAVE or MRSIGNER.
// Text form: 64 hex digits.
type Measurement [32]byte

// KeyHash is the SHA-256 of a public key's SubjectPublicKeyInfo in DER.
// Text form: 64 hex digits.
type KeyHash [32]byte

// InstanceID names one running, attested copy: the KeyHash of the key that it
// presented when it was released.
type InstanceID = KeyHash

// Sum returns the digest of b.
func Sum(b []byte) Digest { return sha256.Sum256(b) }

// ParseDigest reads 64 hex digits; a leading "sha256:" is accepted.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	return d, parseHex(d[:], strings.TrimPrefix(s, "sha256:"), "digest")
}

// ParseMeasurement reads 64 hex digits.
func ParseMeasurement(s string) (Measurement, error) {
	var m Measurement
	return m, parseHex(m[:], s, "measurement")
}

// ParseKeyHash reads 64 hex digits.
func ParseKeyHash(s string) (KeyHash, error) {
	var k KeyHash
	return k, parseHex(k[:], s, "key hash")
}

// HashKey returns the KeyHash of a public key that crypto/x509 can marshal.
func HashKey(pub any) (KeyHash, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return KeyHash{}, fmt.Errorf("hash public key: %w", err)
	}
	return sha256.Sum256(der), nil
}

// HashCertKey returns the KeyHash of a certificate's public key.
func HashCertKey(c *x509.Certificate) KeyHash { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

func (d Digest) String() string      { return hex.EncodeToString(d[:]) }
func (m Measurement) String() string { return hex.EncodeToString(m[:]) }
func (k KeyHash) String() string     { return hex.EncodeToString(k[:]) }

// Short returns the first 12 hex digits, for tables.
func (k KeyHash) Short() string { return k.String()[:12] }

// IsZero reports whether d was never set.
func (d Digest) IsZero() bool { return d == Digest{} }

// IsZero reports whether m was never set.
func (m Measurement) IsZero() bool { return m == Measurement{} }

// IsZero reports whether k was never set.
func (k KeyHash) IsZero() bool { return k == KeyHash{} }

func (d Digest) MarshalText() ([]byte, error)      { return []byte(d.String()), nil }
func (m Measurement) MarshalText() ([]byte, error) { return []byte(m.String()), nil }
func (k KeyHash) MarshalText() ([]byte, error)     { return []byte(k.String()), nil }

func (d *Digest) UnmarshalText(b []byte) (err error) { *d, err = ParseDigest(string(b)); return }
func (m *Measurement) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMeasurement(string(b))
	return
}
func (k *KeyHash) UnmarshalText(b []byte) (err error) { *k, err = ParseKeyHash(string(b)); return }

func parseHex(dst []byte, s, what string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(dst) {
		return fmt.Errorf("%s of %d characters: want %d hex digits", what, utf8.RuneCountInString(s), 2*len(dst))
	}

	copy(dst, b)
	return nil
}

// SessionName is a session's path: elements of 1 to 128 characters out of
// A-Z a-z 0-9 _ - . ~, joined by "/", 512 in all, without a leading slash.
type SessionName string

// ServiceName is one such element.
type ServiceName string

var element = regexp.MustCompile(`^[A-Za-z0-9_.~-]{1,128}$`)

// ParseSessionName checks s; one leading slash is dropped, so that "/a/b" and
// "a/b" name the same session.
func ParseSessionName(s string) (SessionName, error) {
	t := strings.TrimPrefix(s, "/")
	if len(t) == 0 || len(t) > 512 {
		return "", fmt.Errorf("session name of %d characters: want 1 to 512", utf8.RuneCountInString(s))
	}

	for e := range strings.SplitSeq(t, "/") {
		if !element.MatchString(e) || e == "." || e == ".." {
			return "", fmt.Errorf("session name: %s: want elements of 1 to 128 of A-Z a-z 0-9 _ - . ~", wrong(e))
		}
	}

	return SessionName(t), nil
}

// wrong says what an element has that it must not have, by its first such
// character alone: whoever gave a secret in place of a name must not find it in
// a message.
func wrong(e string) string {
	for _, c := range e {
		if !element.MatchString(string(c)) {
			return fmt.Sprintf("the character %q", c)
		}
	}

	switch e {
	case "":
		return "a name that is empty, or has nothing beside a slash"
	case ".", "..":

		return fmt.Sprintf("%q", e)
	}
	return fmt.Sprintf("%d characters", len(e))
}

// ParseServiceName checks s.
func ParseServiceName(s string) (ServiceName, error) {
	if !element.MatchString(s) {
		return "", fmt.Errorf("service name: %s: want 1 to 128 of A-Z a-z 0-9 _ - . ~", wrong(s))
	}
	return ServiceName(s), nil
}

// ServiceRef is what an instance is told from outside: SESSION/SERVICE, with an
// optional one-time password after "@" (SCONE_CONFIG_ID).
type ServiceRef struct {
	Session SessionName
	Service ServiceName
	OTP     string
}

// ParseServiceRef reads SESSION/SERVICE[@OTP]; the last element is the service.
func ParseServiceRef(s string) (ServiceRef, error) {
	path, otp, _ := strings.Cut(s, "@")
	i := strings.LastIndexByte(path, '/')
	if i <= 0 {
		return ServiceRef{}, fmt.Errorf("config id without a slash: want SESSION/SERVICE")
	}

	session, err := ParseSessionName(path[:i])
	if err != nil {
		return ServiceRef{}, fmt.Errorf("config id: %w", err)
	}

	service, err := ParseServiceName(path[i+1:])
	if err != nil {
		return ServiceRef{}, fmt.Errorf("config id: %w", err)
	}

	return ServiceRef{session, service, otp}, nil
}

// String returns SESSION/SERVICE without the one-time password.
func (c ServiceRef) String() string { return string(c.Session) + "/" + string(c.Service) }
