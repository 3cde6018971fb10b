package wire

import (
	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
)

// ReleaseVersion is the protocol's version; requests and replies carry it. A CAS also
// speaks the one before, Previous, to launchers that are not of its age, and
// answers each request in the version that it came in.
//
// Version 2 brought grants, the rule by which volumes are committed, statements,
// and renewals.
const (
	ReleaseVersion = 2
	Previous       = 1
)

// Paths of the instances' API. Bodies are JSON.
const (
	PathRelease   = "/v1/release"   // POST ReleaseRequest -> ReleaseReply
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

// ReleaseRequest asks for what the session grants to the service.
type ReleaseRequest struct {
	Version int               `json:"version"`
	Session ident.SessionName `json:"session"`
	Service ident.ServiceName `json:"service"`
	OTP     string            `json:"otp,omitempty"`
	// Grant is the token of the grant that the copy runs under, from CUPEL_GRANT.
	// The operator chooses it, as it chooses L: it is no part of the evidence.
	Grant owners.GrantToken `json:"grant,omitzero"`
	// Returning says that the instance had an answer before: a CAS that doesn't know
	// it has forgotten what that was, and must not take what it runs for something
	// newer.
	Returning bool              `json:"returning,omitempty"`
	Evidence  evidence.Evidence `json:"evidence"`
}

// ReleaseReply is the service's configuration. Only the launcher reads it.
type ReleaseReply struct {
	Version    int              `json:"version"`
	InstanceID ident.InstanceID `json:"instance_id"`
	Argv       []string         `json:"argv"` // empty: the image's own
	Env        []string         `json:"env"`  // NAME=VALUE, complete
	Cwd        string           `json:"cwd"`
	Files      []File           `json:"files,omitempty"`
	Volumes    []Volume         `json:"volumes,omitempty"`
	// KeepAliveSeconds is how often the instance must report; it lapses after
	// three missed reports, not counting time in which the CAS was down.
	KeepAliveSeconds int               `json:"keep_alive_seconds"`
	Head             owners.SignedHead `json:"head"`

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

// Volume is an encrypted volume to mount before the app starts.
type Volume struct {
	Name string       `json:"name"`
	ID   ident.Digest `json:"id"` // names the ciphertext; fixed for the volume's life
	Path string       `json:"path"`
	Key  []byte       `json:"key"` // 32 bytes
	// NextKey, where it is set, is the key that the next commit is sealed under:
	// the volume was given a fresh one.
	NextKey    []byte        `json:"next_key,omitempty"`
	Generation uint64        `json:"generation"` // 0: never committed, start empty
	Tag        ident.Digest  `json:"tag"`        // of that generation; zero for 0
	Access     owners.Access `json:"access"`
	Lease      uint64        `json:"lease,omitempty"` // fencing token, with ReadWrite
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
	Statement *owners.Statement `json:"statement,omitempty"`
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
	own := TagMove{
		Volume:  r.Volume,
		Lease:   r.Lease,
		From:    r.From,
		FromTag: r.FromTag,
		Tag:     r.Tag,
	}
	return append([]TagMove{own}, r.Also...)
}

// TagReply confirms a commit, durable when it is sent. Generation is the new one of
// the request's own volume.
type TagReply struct {
	Version    int               `json:"version"`
	Generation uint64            `json:"generation"`
	Head       owners.SignedHead `json:"head"`
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
