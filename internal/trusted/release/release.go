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
	"regexp"

	"cupel.dev/cupel/internal/trusted/attest"
	"cupel.dev/cupel/internal/trusted/ident"
)

// Version is the protocol's version; requests and replies carry it. A CAS also
// speaks the one before, Previous, to launchers that are not of its age, and
// answers each request in the version that it came in.
//
// Version 2 brought grants, the rule by which volumes are committed, statements,
// and renewals.
const (
	Version  = 2
	Previous = 1
)

// Paths of the instances' API. Bodies are JSON.
const (
	PathRelease   = "/v1/release"   // POST Request -> Reply
	PathTag       = "/v1/tag"       // POST TagRequest -> TagReply
	PathKeepAlive = "/v1/keepalive" // POST KeepAlive -> KeepAliveReply
	PathExit      = "/v1/exit"      // POST Exit -> {}

	// Of whoever holds a grant's code or token, mostly an operator's manager:
	// the key that it presents is its own, no instance's.
	PathClaim    = "/v1/grants/claim"    // POST Claim -> ClaimReply
	PathGone     = "/v1/grants/gone"     // POST Gone -> {}
	PathGiveBack = "/v1/grants/giveback" // POST GiveBack -> {}
)

// MaxBody is the most bytes that either end reads of one body.
const MaxBody = 16 << 20

// Request asks for what the session grants to the service.
type Request struct {
	Version int               `json:"version"`
	Session ident.SessionName `json:"session"`
	Service ident.ServiceName `json:"service"`
	OTP     string            `json:"otp,omitempty"`
	// Grant is the token of the grant that the copy runs under, from CUPEL_GRANT.
	// The operator chooses it, as it chooses L: it is no part of the evidence.
	Grant GrantToken `json:"grant,omitzero"`
	// Returning says that the instance had an answer before: a CAS that doesn't know
	// it has forgotten what that was, and must not take what it runs for something
	// newer.
	Returning bool            `json:"returning,omitempty"`
	Evidence  attest.Evidence `json:"evidence"`
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

	// Job says that the grant lets the service run once: its volumes are
	// committed when its first process ended with 0. Those of a service are also
	// when it ended by StopSignal, sent through the launcher.
	Job        bool   `json:"job,omitempty"`
	StopSignal string `json:"stop_signal,omitempty"` // "SIGQUIT"; "" means SIGTERM
	// OnRenewal is the signal by which the app is told that its certificate was
	// renewed; "none" for an app that reads it anew by itself; "": the session
	// doesn't say.
	OnRenewal string `json:"on_renewal,omitempty"`
	// OfflineSeconds is how long a copy that reaches no CAS goes on before the
	// launcher stops it; 0: it goes on.
	OfflineSeconds int `json:"offline_seconds,omitempty"`
	// CertificateUntil is when the instance has to be replaced, in Unix seconds:
	// a certificate ends then that nothing renews while the app runs, since it
	// stands in argv or environment, or the session says no OnRenewal; 0: never.
	CertificateUntil int64 `json:"certificate_until,omitempty"`
}

// NoSignal is what OnRenewal says of an app that reads its certificate anew by
// itself.
const NoSignal = "none"

// File is put into the instance's memory, owned by the app's user.
type File struct {
	Path    string `json:"path"` // absolute, clean
	Mode    uint32 `json:"mode"` // permission bits
	Content []byte `json:"content"`
	// Certificate says that it holds a certificate or its key: a renewal replaces
	// it, and no other file.
	Certificate bool `json:"certificate,omitempty"`
}

// Access says what an instance may do with a volume.
type Access string

// Accesses to a volume.
const (
	ReadWrite Access = "rw" // the one writer: it holds the lease and may commit
	ReadOnly  Access = "ro" // a private snapshot; changes end with the instance
)

// Volume is an encrypted volume to mount before the app starts.
type Volume struct {
	Name string       `json:"name"`
	ID   ident.Digest `json:"id"` // names the ciphertext; fixed for the volume's life
	Path string       `json:"path"`
	Key  []byte       `json:"key"` // 32 bytes
	// NextKey, where it is set, is the key that the next commit is sealed under:
	// the volume was given a fresh one.
	NextKey    []byte       `json:"next_key,omitempty"`
	Generation uint64       `json:"generation"` // 0: never committed, start empty
	Tag        ident.Digest `json:"tag"`        // of that generation; zero for 0
	Access     Access       `json:"access"`
	Lease      uint64       `json:"lease,omitempty"` // fencing token, with ReadWrite
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
	// Statement is what the measured app says that it stored; nil: nothing.
	Statement *Statement `json:"statement,omitempty"`
	// Also are the instance's other volumes: all move at once, or none.
	Also []TagMove `json:"also,omitempty"`
}

// TagMove is one volume's step from a generation to the next.
type TagMove struct {
	Volume  ident.Digest `json:"volume"`
	Lease   uint64       `json:"lease"`
	From    uint64       `json:"from"`
	FromTag ident.Digest `json:"from_tag"`
	Tag     ident.Digest `json:"tag"`
}

// Moves are all of the request's, its own first.
func (r *TagRequest) Moves() []TagMove {
	own := TagMove{Volume: r.Volume, Lease: r.Lease, From: r.From, FromTag: r.FromTag, Tag: r.Tag}
	return append([]TagMove{own}, r.Also...)
}

// Statement is a measured puller's word on what it stored in a volume. Whoever
// vouches for the puller can believe it; the CAS keeps it beside the tag.
type Statement struct {
	// Commit is the id of the commit: 40 or 64 hex digits.
	Commit string `json:"commit"`
	// Pinned says that the session names this very commit, not a branch or tag.
	Pinned bool `json:"pinned"`
	// Follows says whether the commit descends from the one that the volume held
	// before.
	Follows Follows `json:"follows"`
}

// Follows answers whether a commit descends from the one before.
type Follows string

// Answers of Follows.
const (
	FollowsYes     Follows = "yes"     // it descends from the one before, or is the same
	FollowsNo      Follows = "no"      // it doesn't: the branch was rewritten, or another one was pulled
	FollowsUnknown Follows = "unknown" // there was none before, or the history that was fetched can't tell
)

// Known reports whether f is one of the three answers.
func (f Follows) Known() bool { return f == FollowsYes || f == FollowsNo || f == FollowsUnknown }

var commitID = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// IsCommit reports whether s has the form of a commit's id.
func IsCommit(s string) bool { return commitID.MatchString(s) }

// TagReply confirms a commit, durable when it is sent. Generation is the new one of
// the request's own volume.
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
	// CertificateDue says that half of the life of a certificate of the
	// instance's is over: it should attest again, under the same key.
	CertificateDue bool `json:"certificate_due,omitempty"`
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
