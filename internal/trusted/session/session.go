package session

import (
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/secret"
)

// Session is one version of one session, with all template variables filled in.
type Session struct {
	Version     string // "0.3" or "0.3.N"
	Name        ident.SessionName
	Predecessor *ident.Digest // hash of the version that this one replaces
	// Salt makes the session's hash one that nobody can guess the text from. It
	// is as secret as the values that the text gives.
	Salt     secret.Value
	Services []Service
	Secrets  []Secret
	Volumes  []Volume
	Images   []Image
	Access   AccessPolicy
	Security Security

	// Warnings say what is allowed but hardly meant, with line and column. They
	// are no part of the canonical form.
	Warnings []string
}

// Service is one program of the session.
type Service struct {
	Name        ident.ServiceName
	ImageName   string
	Attestation []evidence.CodeIdentity // any one suffices; `mrenclaves` is folded into it
	Command     []Text                  // argv; empty: the image's own
	Environment []EnvVar                // in canonical (name) order
	Pwd         string

	// What follows are keys of Cupel's own, in the map `cupel:`. A zero value was
	// not written, and is not written.

	StopSignal string        // "SIGQUIT": asks the app to end well; "" means SIGTERM
	OnRenewal  string        // "SIGHUP": tells the app that its certificate was renewed; "none": it reads it anew by itself
	Offline    time.Duration // how long a copy goes on that reaches no CAS; 0: until its certificate ends
}

// EnvVar is one variable of a service's environment.
type EnvVar struct {
	Name  string
	Value Text
}

// Text is a string that may refer to secrets: literal parts and references in
// turn, no two literals touching. Resolve it with Expand.
type Text []Part

// Part is a literal, or a reference where Ref is set.
type Part struct {
	Literal string
	Ref     *Ref
}

// Ref is $$SCONE::NAME$$ or $$SCONE::NAME:FORMAT$$ or $$SCONE::NAME:FORMAT|ENCODING$$.
type Ref struct {
	Secret   string
	Format   string // "", "hex", "pem", "crt", "privatekey:pem", "chain", …
	Encoding string // "" or "escape(json)"
}

// Kind is a secret's kind.
type Kind string

// Kinds of secrets.
const (
	ASCII      Kind = "ascii"
	Binary     Kind = "binary"
	PrivateKey Kind = "private-key"
	X509CA     Kind = "x509-ca"
	X509       Kind = "x509"
)

// Secret is one named secret. With HasValue the owner gave Value; otherwise the
// CAS generates it.
type Secret struct {
	Name         string
	Kind         Kind
	Size         int // of a generated value: ascii: characters, binary: bytes
	HasValue     bool
	Value        secret.Value
	ExportPublic bool
	KeyType      string   // private-key: "P-256" (default), "P-384", "Ed25519"
	PrivateKey   string   // x509, x509-ca: name of the private-key secret; x509: empty means a fresh key for each instance
	Issuer       string   // x509: name of the x509-ca secret
	CommonName   string   // x509, x509-ca
	DNS          []string // x509: DNS names and IP addresses
	Endpoint     string   // x509: "server", "client", "" for both
	ValidFor     string   // x509, x509-ca: like "60 days"; "" for the default
}

// Volume is one encrypted volume.
type Volume struct{ Name string }

// UpdatePolicy says what a service may do with a volume.
type UpdatePolicy string

// Update policies of a mount.
const (
	RollbackProtected UpdatePolicy = "rollback_protected" // the lease holder commits; an old state is refused
	Ephemeral         UpdatePolicy = "ephemeral"          // changes end with the instance; an old state is refused
)

// Image says what is put into the instances of the services that name it.
type Image struct {
	Name           string
	Volumes        []VolumeMount
	InjectionFiles []InjectionFile
}

// VolumeMount mounts a volume at an absolute, clean path.
type VolumeMount struct {
	Name   string
	Path   string
	Policy UpdatePolicy
}

// InjectionFile is a file in the instance's memory.
type InjectionFile struct {
	Path       string
	Content    Text
	Permission uint32 // permission bits; default 0o400
}

// AccessPolicy says who may do what with the session. Entries are CREATOR, ANY,
// NONE, or a key hash (64 hex digits or SCONE's Base58Check form).
type AccessPolicy struct {
	Read, Update, CreateSessions []AccessEntry
	// Deploy is a right of Cupel's own: to grant that the session is run. Nil
	// where the text doesn't say: then the CREATOR has it, and whoever may
	// update. ANY means that no grant is asked for.
	Deploy []AccessEntry
}

// AccessEntry is one entry; Word is empty where Key is set.
type AccessEntry struct {
	Word string // "CREATOR", "ANY", "NONE"
	Key  ident.KeyHash
}

// Security is the session's attestation policy beside the code identities.
type Security struct {
	Mode             string // "hardware" (default) or "none" (refused unless the CAS allows it)
	Tolerate         []evidence.Tolerance
	IgnoreAdvisories []string
}
