package wire

import (
	"crypto/sha512"
	"crypto/tls"
	"fmt"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/fieldhash"
)

// LaunchBinding returns L, zero-padded to the evidence's 64-byte CONFIGID:
// SHA-256 over the tag and the length-prefixed CAS identity, session, service.
func LaunchBinding(cas ident.KeyHash, session ident.SessionName, service ident.ServiceName) evidence.Data64 {
	sum := fieldhash.Of([]byte("cupel/launch/v1"), cas[:], []byte(session), []byte(service))

	var out evidence.Data64
	copy(out[:], sum[:])
	return out
}

// ReportData binds evidence to one TLS connection and to the client's key on it.
func ReportData(exporter [32]byte, client ident.KeyHash) evidence.Data64 {
	b := append([]byte("cupel/release/v1"), exporter[:]...)
	return sha512.Sum512(append(b, client[:]...))
}

// CASReportData binds a CAS's evidence to a caller's nonce and to the CAS's
// identity key (GET /v1/attest).
func CASReportData(nonce [32]byte, identity ident.KeyHash) evidence.Data64 {
	b := append([]byte("cupel/cas/v1"), nonce[:]...)
	return sha512.Sum512(append(b, identity[:]...))
}

// Exporter returns the connection's RFC 9266 channel binding (tls-exporter).
func Exporter(cs *tls.ConnectionState) ([32]byte, error) {
	var out [32]byte
	if cs == nil || cs.Version != tls.VersionTLS13 {
		return out, fmt.Errorf("channel binding: the connection is not TLS 1.3")
	}

	b, err := cs.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return out, fmt.Errorf("channel binding: %w", err)
	}
	copy(out[:], b)
	return out, nil
}
