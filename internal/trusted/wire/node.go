package wire

import (
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
)

// The node serves HTTP/1.1 over a Unix socket of the instance's own, beside
// the LAS socket. Only the launcher reaches it. Nothing that the node says is
// trusted: a snapshot is good if it verifies against the tag at the CAS.
//
//	GET  /v1/volumes/{id}?generation=N&tag=T -> 200, ciphertext; 404: not stored
//	PUT  /v1/volumes/{id}?generation=N       <- ciphertext, then the trailer Cupel-Tag; 204 when it is durable
//	POST /v1/status                          <- Status; 200, Orders, or 204
//
// A snapshot is known by volume, generation and tag. Two writers may store the
// same generation: one whose lease lapsed while it was cut off, and its
// successor. The CAS takes the tag of one of them, the node can't know whose,
// so it keeps both, and a GET names the one that the CAS named. It keeps a
// generation until the one after the next is stored, because a PUT whose tag
// never reached the CAS leaves a newer snapshot that nobody may use.
//
// The tag is known when the last byte is: it follows the body as a trailer. A
// PUT whose body breaks off, or that has no tag, stores nothing. Errors are
// problem bodies.
const (
	// NodeSocket is the node socket's name in the instance's socket directory.
	NodeSocket = "node.sock"
	// PathVolumes is followed by the volume's id in hex.
	PathVolumes = "/v1/volumes/"
	// PathStatus takes the launcher's reports.
	PathStatus = "/v1/status"
	// QueryGeneration is the query parameter that names a generation (decimal).
	QueryGeneration = "generation"
	// QueryTag is the query parameter that names a snapshot's tag (hex).
	QueryTag = "tag"
	// TrailerTag is the trailer of a PUT with the snapshot's tag (hex).
	TrailerTag = "Cupel-Tag"
)

// Snapshot names one sealed state of a volume.
type Snapshot struct {
	Volume     ident.Digest
	Generation uint64
	Tag        ident.Digest // of the sealed bytes; see package sealed
}

// StatusVersion is the version of Status.
const StatusVersion = 1

// Phase is how far an instance is.
type Phase string

// Phases of an instance, in their order.
const (
	Starting   Phase = "starting"   // the launcher runs
	Attesting  Phase = "attesting"  // it talks to the CAS
	Attested   Phase = "attested"   // released: InstanceID is known
	Mounting   Phase = "mounting"   // it fetches and opens volumes
	Running    Phase = "running"    // the app was started
	Stopping   Phase = "stopping"   // the app was told to end
	Committing Phase = "committing" // the app ended well; volumes are being stored
	Exited     Phase = "exited"     // the end, with the app's exit code
	Refused    Phase = "refused"    // the end: the launcher did not start the app, or could not commit; Problem says why
)

// Status is what the launcher tells its node, for people and schedulers. It is
// best effort and never carries a secret.
type Status struct {
	Version    int              `json:"version"`
	Phase      Phase            `json:"phase"`
	InstanceID ident.InstanceID `json:"instance_id,omitzero"` // from Attested on
	Code       int              `json:"code"`                 // with Exited and Refused: the launcher's exit code
	// Problem is why, with Refused; with Exited, what the exit code doesn't say
	// (RuleNotCommitted); with an earlier phase, what the launcher waits for.
	Problem *problem.Error `json:"problem,omitempty"`
	// CertificateUntil is when the instance has to be replaced, in Unix seconds,
	// since a certificate ends then that nothing renews while the app runs; 0: never.
	CertificateUntil int64 `json:"certificate_until,omitempty"`
}

// Orders is what the node answers to a report.
type Orders struct {
	// GraceMillis is what is left of the time that the host gives a stopped app,
	// in milliseconds; 0: the host didn't ask it to end.
	GraceMillis int64 `json:"grace_millis,omitempty"`
}
