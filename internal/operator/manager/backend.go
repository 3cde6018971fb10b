package manager

import (
	"context"
	"io"
	"net/netip"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/launch"
	"cupel.dev/cupel/internal/trusted/secret"
)

// Backend runs instances somewhere: on this machine's node, on many nodes, on
// Kubernetes. The manager decides, a Backend carries out; it never starts,
// restarts or removes anything on its own account. Every implementation passes
// backendtest.
//
// Methods are safe for concurrent use. Errors are *problem.Error where a
// person can mend them. What a cancelled call began is undone before it
// returns, so that no method leaves half an instance.
type Backend interface {
	// Start creates the instance and returns once its launcher runs, which is
	// before it attested. An id that exists and has not exited is left alone
	// and is no error; one that exited is a Conflict. The image must have been
	// given to EnsureImage before: otherwise NotFound, rule image_missing.
	Start(ctx context.Context, spec InstanceSpec) error
	// Stop asks the instance to end (SIGTERM), ends it after grace (SIGKILL),
	// later if it stores volumes by then and makes progress, and returns when it
	// has exited. No error if it had; NotFound if unknown.
	Stop(ctx context.Context, id ident.AttemptID, grace time.Duration) error
	// Remove ends the instance if it runs and frees all that it held: network,
	// snapshot, sockets, logs. An unknown id is no error.
	Remove(ctx context.Context, id ident.AttemptID) error
	// List returns every instance from Start to Remove, those that exited and
	// those that were adopted from an earlier process included, ordered by id.
	List(ctx context.Context) ([]InstanceStatus, error)
	// Watch tells that instances changed, until ctx ends; then the channel is
	// closed. Events are hints: several changes of one instance may arrive as
	// one, but the last change is always followed by an event that shows it.
	Watch(ctx context.Context) (<-chan InstanceEvent, error)
	// Logs returns the instance's output as LogLine in JSON, one a line, oldest
	// first. With Follow it ends when the instance has exited and all was
	// read, when it is removed, or with ctx. The caller closes it.
	Logs(ctx context.Context, id ident.AttemptID, opts LogOptions) (io.ReadCloser, error)
	// EnsureImage brings the image of the reference here, if it isn't.
	EnsureImage(ctx context.Context, ref ident.ImageRef) (ImageInfo, error)
}

// InstanceSpec is everything that a Backend needs to know to start one
// instance. But for the grant it holds no secret: those come from the CAS, inside.
type InstanceSpec struct {
	ID      ident.AttemptID   // unique: 1 to 40 of a-z 0-9 -, e.g. "i-3f9k2m1x-1"
	App     string            // the app's id, for grouping
	AppName string            // the app's name, for people and host names
	Config  ident.ServiceRef  // CUPEL_CONFIG_ID: session and service
	Binding evidence.Data64   // L, the evidence's CONFIGID
	CAS     ident.KeyHash     // identity of the CAS that Binding stands for
	CASAddr string            // CUPEL_CAS_ADDR as host:port; empty: the Backend's own
	Image   ident.ImageRef    // reference as given to EnsureImage
	Memory  uint64            // limit in bytes
	Port    uint16            // TCP port that a healthy instance accepts on; 0: a job, which has no health
	Labels  map[string]string // kept and given back by List
	Profile launch.Version    // launch profile; empty: the first
	// Launcher is the launcher's file by its digest; zero: the Backend's own. One
	// that a Backend no longer has is NotFound, rule launcher_missing.
	Launcher ident.Digest
	// Grant is the right to run, which the instance shows the CAS: CUPEL_GRANT.
	// Empty: it has none. A Backend gives it to the launcher and to nobody else.
	Grant secret.Value `json:"-"`
}

// InstanceState is what the Backend sees from outside.
type InstanceState string

// States of an instance.
const (
	StateStarting InstanceState = "starting" // from Start until the app itself runs
	StateRunning  InstanceState = "running"  // the launcher reported that it started the app
	StateStopping InstanceState = "stopping" // asked to end
	StateExited   InstanceState = "exited"   // ended; ExitCode is set
)

// Health is the answer of the TCP check on the instance's port.
type Health string

// Healths of an instance.
const (
	HealthUnknown   Health = ""          // a job, or not checked yet
	HealthHealthy   Health = "healthy"   // accepts connections
	HealthUnhealthy Health = "unhealthy" // ran and doesn't (any more)
)

// InstanceStatus is the observed state of one instance.
type InstanceStatus struct {
	ID     ident.AttemptID   `json:"id"`
	App    string            `json:"app"`
	Labels map[string]string `json:"labels,omitempty"`
	State  InstanceState     `json:"state"`
	// Phase is the launcher's newest report: starting attesting attested
	// mounting running stopping committing exited refused.
	Phase string `json:"phase,omitempty"`
	// Problem is why the launcher refused or the instance failed, as far as
	// anybody said; it is the instance's own word or the Backend's.
	Problem *problem.Error `json:"problem,omitempty"`
	// CertificateUntil is when the newest certificate that the app knows of ends,
	// CertificateSince when it got that one; zero: it has none of its own.
	CertificateUntil time.Time `json:"certificate_until,omitzero"`
	CertificateSince time.Time `json:"certificate_since,omitzero"`
	// InstanceID is the id under which the CAS knows it; zero before attested.
	InstanceID ident.InstanceID `json:"instance_id"`
	IP         netip.Addr       `json:"ip"`
	Health     Health           `json:"health,omitempty"`
	ExitCode   int              `json:"exit_code,omitempty"`
	OOMKilled  bool             `json:"oom_killed,omitempty"`
	Memory     uint64           `json:"memory"`      // limit in bytes
	MemoryUsed uint64           `json:"memory_used"` // now, in bytes; 0 if unknown
	CreatedAt  time.Time        `json:"created_at"`
	StartedAt  time.Time        `json:"started_at,omitzero"` // when the app itself started
	ExitedAt   time.Time        `json:"exited_at,omitzero"`
}

// InstanceEvent says that an instance changed.
type InstanceEvent struct {
	Status  InstanceStatus
	Removed bool // it is gone; of Status only ID and App are set
}

// LogOptions selects from an instance's output.
type LogOptions struct {
	Follow bool
	Since  time.Time // zero: from the oldest kept
	Tail   int       // at most that many of the newest lines to begin with; negative: all
}

// LogLine is one line of an instance's output.
type LogLine struct {
	Time   time.Time `json:"time"`
	Stream string    `json:"stream"` // stdout, stderr
	Line   string    `json:"line"`   // without its end of line
	// Partial says that the line goes on with the next one of the stream.
	Partial bool `json:"partial,omitempty"`
}

// ImageInfo describes an image that is here.
type ImageInfo struct {
	Ref    ident.ImageRef `json:"ref"`
	Digest ident.Digest   `json:"digest"` // of the manifest
	Config ident.Digest   `json:"config"` // of the image's configuration: what is measured
	Size   int64          `json:"size"`   // of its layers, compressed, in bytes
}

// Balancer carries connections from public ports to instances. A client stays
// with its instance until that one leaves the frontend's endpoints.
type Balancer interface {
	// Apply makes frontends the whole of what is served, each of them at once. It
	// is idempotent and keeps the affinity of clients whose endpoint stays. After
	// an error some may be served as before; the next Apply makes them all. A port that somebody else
	// holds is a Conflict, rule port_taken. A frontend without endpoints keeps
	// its port and refuses connections.
	Apply(ctx context.Context, frontends []Frontend) error
	// Connections counts, by their address, the connections through public ports
	// that instances have which the last Apply lists as leaving. One that is
	// missing has none.
	Connections(ctx context.Context) (map[netip.Addr]int, error)
	// Close releases the bound ports of this process; what goes on without it
	// (the kernel's rules) goes on.
	Close() error
}

// Frontend is one public TCP port of an app.
type Frontend struct {
	App       string // the app's id
	Port      uint16
	Endpoints []Endpoint
	// Leaving are instances that get no new connections and keep those that they
	// have for as long as they are listed.
	Leaving []Leaving
}

// Leaving is one instance that is to end once its connections have.
type Leaving struct {
	Instance string // the replica's id
	IP       netip.Addr
}

// Endpoint is one instance that takes connections.
type Endpoint struct {
	Instance string // the replica's id, which outlives restarts
	IP       netip.Addr
	Port     uint16
}
