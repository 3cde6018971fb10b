// Package release is the protocol between an instance and the CAS, in one
// definition for both ends: wire types, launch binding, channel binding.
//
// Transport: TLS 1.3 with session tickets off, HTTP/1.1, port 18765. The
// instance presents a fresh self-signed ECDSA P-256 certificate; the hash of
// its key is the instance's id and authenticates every later request.
package release

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"fmt"

	"cupel.dev/cupel/internal/trusted/attest"
	"cupel.dev/cupel/internal/trusted/ident"
)

// Version is the protocol's version; requests and replies carry it.
const Version = 1

// Paths of the instances' API. Bodies are JSON.
const (
	PathRelease   = "/v1/release"   // POST Request -> Reply
	PathTag       = "/v1/tag"       // POST TagRequest -> TagReply
	PathKeepAlive = "/v1/keepalive" // POST KeepAlive -> KeepAliveReply
	PathExit      = "/v1/exit"      // POST Exit -> {}
)

// MaxBody is the most bytes that either end reads of one body.
const MaxBody = 16 << 20

// Request asks for what the session grants to the service.
type Request struct {
	Version  int               `json:"version"`
	Session  ident.SessionName `json:"session"`
	Service  ident.ServiceName `json:"service"`
	OTP      string            `json:"otp,omitempty"`
	Evidence attest.Evidence   `json:"evidence"`
}

// Reply is the service's configuration. Only the launcher reads it.
type Reply struct {
	Version    int              `json:"version"`
	InstanceID ident.InstanceID `json:"instance_id"`
	Argv       []string         `json:"argv"` // empty: the image's own
	Env        []string         `json:"env"`  // NAME=VALUE, complete
	Cwd        string           `json:"cwd"`
	Files      []File           `json:"files,omitempty"`
	Volumes    []Volume         `json:"volumes,omitempty"`
	// KeepAliveSeconds is how often the instance must report; it lapses after
	// three missed reports, not counting time in which the CAS was down.
	KeepAliveSeconds int        `json:"keep_alive_seconds"`
	Head             SignedHead `json:"head"`
}

// File is put into the instance's memory, owned by the app's user.
type File struct {
	Path    string `json:"path"` // absolute, clean
	Mode    uint32 `json:"mode"` // permission bits
	Content []byte `json:"content"`
}

// Access says what an instance may do with a volume.
type Access string

// Accesses to a volume.
// The two kinds of access.
const (
	ReadWrite Access = "rw" // the one writer: it holds the lease and may commit
	ReadOnly  Access = "ro" // a private snapshot; changes end with the instance
)

// Volume is an encrypted volume to mount before the app starts.
type Volume struct {
	Name       string       `json:"name"`
	ID         ident.Digest `json:"id"` // names the ciphertext; fixed for the volume's life
	Path       string       `json:"path"`
	Key        []byte       `json:"key"`        // 32 bytes
	Generation uint64       `json:"generation"` // 0: never committed, start empty
	Tag        ident.Digest `json:"tag"`        // of that generation; zero for 0
	Access     Access       `json:"access"`
	Lease      uint64       `json:"lease,omitempty"` // fencing token, with ReadWrite
	Held       bool         `json:"held,omitempty"`  // with ReadOnly: it would be ReadWrite, but another instance has the lease
}

// TagRequest commits a volume's next generation by compare-and-swap, after the
// node said that the ciphertext is stored.
type TagRequest struct {
	Version int          `json:"version"`
	Volume  ident.Digest `json:"volume"`
	Lease   uint64       `json:"lease"`
	From    uint64       `json:"from"` // generation that the caller started from; the new one is From+1
	FromTag ident.Digest `json:"from_tag"`
	Tag     ident.Digest `json:"tag"`
}

// TagReply confirms a commit, durable when it is sent.
type TagReply struct {
	Version    int        `json:"version"`
	Generation uint64     `json:"generation"`
	Head       SignedHead `json:"head"`
}

// KeepAlive says that the instance runs.
type KeepAlive struct {
	Version int `json:"version"`
}

// KeepAliveReply tells when to report next.
type KeepAliveReply struct {
	Version          int `json:"version"`
	KeepAliveSeconds int `json:"keep_alive_seconds"`
}

// Exit ends the instance's rights.
type Exit struct {
	Version int    `json:"version"`
	Code    int    `json:"code"`
	Reason  string `json:"reason,omitempty"`
}

// SignedHead is the end of the CAS's audit log: entry number, hash over the
// chain, the CAS's time (Unix nanoseconds) and the identity key's ECDSA
// signature (ASN.1) over HeadMessage. Every CAS reply carries one, in the body
// or in the header Cupel-Audit-Head (base64 of its JSON).
type SignedHead struct {
	Seq       uint64       `json:"seq"`
	Hash      ident.Digest `json:"hash"`
	Time      int64        `json:"time"`
	Signature []byte       `json:"signature"`
}

// HeadHeader carries a SignedHead on replies whose body has no place for it.
const HeadHeader = "Cupel-Audit-Head"

// HeadMessage returns the SHA-256 that a SignedHead's signature is over.
func HeadMessage(h SignedHead) [32]byte {
	b := []byte("cupel/audit-head/v1")
	b = binary.BigEndian.AppendUint64(b, h.Seq)
	b = append(b, h.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Time))
	return sha256.Sum256(b)
}

// LaunchBinding returns L, zero-padded to the evidence's 64-byte CONFIGID:
// SHA-256 over the tag and the length-prefixed CAS identity, session, service.
func LaunchBinding(cas ident.KeyHash, session ident.SessionName, service ident.ServiceName) attest.Data64 {
	h := sha256.New()
	for _, part := range [][]byte{[]byte("cupel/launch/v1"), cas[:], []byte(session), []byte(service)} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	var out attest.Data64
	h.Sum(out[:0])
	return out
}

// ReportData binds evidence to one TLS connection and to the client's key on it.
func ReportData(exporter [32]byte, client ident.KeyHash) attest.Data64 {
	b := append([]byte("cupel/release/v1"), exporter[:]...)
	return sha512.Sum512(append(b, client[:]...))
}

// CASReportData binds a CAS's evidence to a caller's nonce and to the CAS's
// identity key (GET /v1/attest).
func CASReportData(nonce [32]byte, identity ident.KeyHash) attest.Data64 {
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
