package owners

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// Version is the version that replies carry.
const Version = 1

// Paths of the owners' API, served over TLS 1.3 on port 8081. A client
// certificate is asked for, not required; only its key counts.
const (
	PathLegacySession = "/session"          // POST body: session text -> 201 Created; GET /session/NAME -> Session
	PathSessions      = "/v1/sessions"      // POST, GET /v1/sessions/NAME[?hash=HEX] as above; DELETE /v1/sessions/NAME -> Removed
	SuffixInstances   = "/instances"        // GET /v1/sessions/NAME/instances -> Instances
	PathGrants        = "/v1/grants"        // POST NewGrant -> GrantMade; GET ?session=NAME -> Grants; PATCH /v1/grants/ID GrantChange -> Grant; DELETE /v1/grants/ID -> Grant
	PathRotations     = "/v1/rotations"     // POST Rotate -> Rotations; GET ?session=NAME -> Rotations
	PathVolumeReset   = "/v1/volumes/reset" // POST ResetVolume -> VolumeReset
	PathRefusals      = "/v1/refusals"      // GET ?session=NAME -> Refusals
	PathValues        = "/v1/values/"       // GET /v1/values/session=NAME[,secret=S][,session_hash=HEX] -> Values, with secret=: Value
	PathAttest        = "/v1/attest"        // GET ?nonce=HEX64 -> Attestation
	PathVersion       = "/v1/version"       // GET -> VersionInfo
	PathLog           = "/v1/log"           // GET ?since=SEQ[&limit=N] -> LogPage
	PathHealth        = "/v1/health"        // GET -> Health
	PathOpenAPI       = "/v1/openapi.yaml"
)

// Headers of every reply.
const (
	HeaderVersion   = "Cupel-Version" // the software's version
	HeaderRequestID = problem.HeaderRequestID
)

// MaxSession is the most bytes of a session's text.
const MaxSession = 1 << 20

// MaxLogPage is the most entries of one LogPage.
const MaxLogPage = 1000

// Created answers an upload: the version's hash is session.Session's, which the
// client compares with its own. Warnings is a list of message chains.
type Created struct {
	Hash     ident.Digest `json:"hash"`
	Warnings [][]string   `json:"warnings,omitempty"`
}

// Removed answers the removal of a session: what ended with it.
type Removed struct {
	Version   int               `json:"version"`
	Session   ident.SessionName `json:"session"`
	Hash      ident.Digest      `json:"hash"`      // of the version that was current
	Versions  int               `json:"versions"`  // how many were kept
	Grants    int               `json:"grants"`    // that held
	Instances int               `json:"instances"` // with rights
	Volumes   []string          `json:"volumes"`   // of the current version; nobody can read them any more
}

// Session is one version of a session: Text as it was uploaded.
type Session struct {
	Hash ident.Digest `json:"hash"`
	Text string       `json:"session"`
}

// Value is a secret that the session exports to the public. Kind is "string"
// for ascii, "binary" (Value in base64), "x509" or "x509-ca" (PEM).
type Value struct {
	Kind    string     `json:"kind"`
	Value   string     `json:"value"`
	Expires *time.Time `json:"expires"` // null: never
	Renew   *time.Time `json:"renew"`
}

// Values are all of them, by name.
type Values struct {
	Values map[string]Value `json:"values"`
}

// State is what the CAS knows about a released instance.
type State string

// States of an instance.
const (
	Running State = "running" // reports as agreed
	Lapsed  State = "lapsed"  // missed three reports; its rights ended
	Exited  State = "exited"  // reported its exit
	Revoked State = "revoked" // a session update excluded it

	Withdrawn State = "withdrawn" // the grant that it ran under ended
	Gone      State = "gone"      // the holder of its grant's token said that it is no more
)

// Instances lists a session's instances: all that run, and the latest that
// ended, in the order in which they were released.
type Instances struct {
	Version   int        `json:"version"`
	Instances []Instance `json:"instances"`
	// Volumes are the session's, by name, each in its newest state.
	Volumes []Volume `json:"volumes"`
}

// Volume is the newest state of one of a session's volumes.
type Volume struct {
	Name string `json:"name"`
	// ID is another one after a reset, when generations begin anew. Zero: never used,
	// or the CAS is of a release that doesn't tell.
	ID         ident.Digest     `json:"id,omitzero"`
	Generation uint64           `json:"generation"` // 0: nothing was committed yet
	Holder     ident.InstanceID `json:"holder"`     // of the lease; zero: nobody
	// Statement is what the instance that committed it said about it.
	Statement *Statement `json:"statement,omitempty"`
}

// Instance is one attested copy of a service.
type Instance struct {
	ID         ident.InstanceID  `json:"id"`
	Service    ident.ServiceName `json:"service"`
	Claims     evidence.Claims   `json:"claims"`
	State      State             `json:"state"`
	ReleasedAt time.Time         `json:"released_at"`
	LastSeen   time.Time         `json:"last_seen"`
	EndedAt    *time.Time        `json:"ended_at,omitempty"`
	ExitCode   *int              `json:"exit_code,omitempty"`
	ExitReason string            `json:"exit_reason,omitempty"`
	// SessionHash is the session version that it was released under.
	SessionHash ident.Digest `json:"session_hash"`
	// Grant is the one that it runs under; zero: none was asked for.
	Grant   GrantID          `json:"grant,omitzero"`
	Volumes []InstanceVolume `json:"volumes,omitempty"`
}

// InstanceVolume is a volume as an instance has it.
type InstanceVolume struct {
	Name       string       `json:"name"`
	ID         ident.Digest `json:"id,omitzero"` // as in Volume
	Access     Access       `json:"access"`
	Generation uint64       `json:"generation"` // that the instance started from or committed last
	// Statement belongs to that generation.
	Statement *Statement `json:"statement,omitempty"`
}

// Attestation is the CAS's own evidence. Its REPORTDATA is SHA-512 over "cupel/cas/v1", the
// caller's nonce and the hash of the identity key; its CONFIGID is zero. Nothing in it is
// trusted before the evidence verifies under the caller's own roots, and SimulationRoot
// never is: it only says which root the CAS itself was given.
type Attestation struct {
	Version             int               `json:"version"`
	Evidence            evidence.Evidence `json:"evidence"`
	IdentityCertificate string            `json:"identity_certificate"` // PEM, self-signed
	Time                time.Time         `json:"time"`                 // the CAS's clock
	SimulationRoot      string            `json:"simulation_root,omitempty"`
	Head                SignedHead        `json:"head"`
}

// LogPage holds the entries after the asked-for number, oldest first. The head
// may lie beyond the page: ask again from the last entry until it is reached.
type LogPage struct {
	Version int        `json:"version"`
	Entries []Entry    `json:"entries"`
	Head    SignedHead `json:"head"`
}

// VersionInfo says what software answers.
type VersionInfo struct {
	Version  string `json:"version"`  // of the software
	API      int    `json:"api"`      // Version
	Release  int    `json:"release"`  // version of the instances' API
	Language string `json:"language"` // newest session language
}

// Health is 200 with Status "ok", or a 503 problem.
type Health struct {
	Version int    `json:"version"`
	Status  string `json:"status"`
}

// EncodeHead is the form of a head in HeadHeader.
func EncodeHead(h SignedHead) string {
	b, err := json.Marshal(h)
	if err != nil { // numbers, a digest and bytes always marshal
		return ""
	}
	return base64.StdEncoding.EncodeToString(b)
}

// HeadFrom reads the signed head of a reply out of HeadHeader. The signature is not checked.
func HeadFrom(value string) (SignedHead, error) {
	var head SignedHead
	b, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return head, fmt.Errorf("header %s: %w", HeadHeader, err)
	}

	if err := json.Unmarshal(b, &head); err != nil {
		return SignedHead{}, fmt.Errorf("header %s: %w", HeadHeader, err)
	}

	return head, nil
}
