package manager

import (
	"context"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/launch"
)

// Store keeps what the manager must not forget. Only one manager at a time uses
// one; it reads the State once and then keeps it in memory.
type Store interface {
	// Load returns the whole state.
	Load(ctx context.Context) (State, error)
	// Apply carries out a change as one durable transaction and returns its
	// events with their sequence numbers.
	Apply(ctx context.Context, c Change) ([]Event, error)
	// Events returns at most limit events after the sequence number since,
	// oldest first. The oldest events are forgotten when there are very many.
	Events(ctx context.Context, since uint64, filter EventFilter, limit int) ([]Event, error)
	Close() error
}

// Event is a decision or an observation, with whose it is: events outlive
// their app, and are shown to its owner and the operator only.
type Event struct {
	managerapi.Event
	Owner ident.KeyHash
}

// EventFilter selects events. Zero fields select all.
type EventFilter struct {
	App   ident.AppRef // the app's id or name
	Owner ident.KeyHash
}

// State is everything that is desired, keyed by id, and what must not be
// forgotten beside it.
type State struct {
	Apps     map[string]*App
	Replicas map[string]*Replica
	Notices  map[string]*Notice
	Codes    map[ident.Digest]*UsedCode // by the digest of the code
}

// Change is one transaction: what is written, what is deleted, and why.
type Change struct {
	Apps           []*App
	Replicas       []*Replica
	Notices        []*Notice
	Codes          []*UsedCode
	DeleteApps     []string
	DeleteReplicas []string
	DeleteNotices  []string
	DeleteCodes    []ident.Digest
	Events         []Event // without Seq
}

func (c *Change) empty() bool {
	written := len(c.Apps) + len(c.Replicas) + len(c.Notices) + len(c.Codes)
	deleted := len(c.DeleteApps) + len(c.DeleteReplicas) + len(c.DeleteNotices) + len(c.DeleteCodes)
	return written+deleted+len(c.Events) == 0
}

// App is one app: what serves, what shall serve, and how the way there stands.
type App struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Owner     ident.KeyHash     `json:"owner"`
	Session   ident.SessionName `json:"session"`
	CreatedAt time.Time         `json:"created_at"`
	Current   *Revision         `json:"current,omitempty"` // serves; nil before the first deployment succeeded
	Next      *Revision         `json:"next,omitempty"`    // is being rolled out
	Lost      *Revision         `json:"lost,omitempty"`    // whose deployment failed, if that was the newest
	Last      int               `json:"last"`              // number of the newest revision
	Removing  bool              `json:"removing,omitempty"`
	// LauncherTold is the launcher of which an event said that the app doesn't run
	// on it yet.
	LauncherTold ident.Digest `json:"launcher_told,omitzero"`
	Rollout      Rollout      `json:"rollout"` // the newest deployment
	// Ending are grants of revisions that no longer count: each is given back
	// when the last instance of its revision has ended.
	Ending []HeldGrant `json:"ending,omitempty"`
	// OwnerAsked says that an event told that the app needs its owner.
	OwnerAsked bool `json:"owner_asked,omitempty"`
	// Unhealthy says that an event told that no instance accepts connections any more.
	Unhealthy bool `json:"unhealthy,omitempty"`
}

// Revision is one deployment's wishes.
type Revision struct {
	Number        int               `json:"number"`
	Session       ident.SessionName `json:"session"`
	Runtime       string            `json:"runtime"`
	Image         ident.ImageRef    `json:"image"`
	PullImage     ident.ImageRef    `json:"pull_image"`
	Service       ident.ServiceName `json:"service"`
	PullService   ident.ServiceName `json:"pull_service"`
	Instances     int               `json:"instances"`
	Memory        uint64            `json:"memory"`
	Port          uint16            `json:"port"`
	ContainerPort uint16            `json:"container_port"`
	CAS           ident.KeyHash     `json:"cas"`
	CASAddr       string            `json:"cas_addr,omitempty"` // empty: the manager's own
	// Profile is the launch profile by which its instances start, for as long as
	// it serves: a newer one is another measurement. Empty: the first.
	Profile launch.Version `json:"profile,omitempty"`
	// Launcher is the digest of the launcher that its instances start with, for as
	// long as it serves. Zero: whichever the Backend has, as revisions from before
	// launchers were named.
	Launcher ident.Digest `json:"launcher,omitzero"`
	// Grant is what it runs under. Nil where the session asks for none, and for
	// revisions from before there were grants.
	Grant *Grant `json:"grant,omitempty"`
	// Ungranted says that whoever deployed it said that the session asks for no
	// grant.
	Ungranted bool `json:"ungranted,omitempty"`
	// Writes are the volumes that the service writes, as the CAS says: then only
	// one instance runs, and an update stops it before the next one starts.
	Writes []string `json:"writes,omitempty"`
}

// Phase is how far a rollout is.
type Phase string

// Phases of a rollout, in their order.
const (
	PhaseImages Phase = "images"
	PhasePull   Phase = "pull"
	PhaseStop   Phase = "stop"  // only where the service writes a volume: the revision before
	PhaseStart  Phase = "start" // start, attest, health: as the instances come
	PhaseSwitch Phase = "switch"
	PhaseDrain  Phase = "drain"
	PhaseDone   Phase = "done"
	PhaseFailed Phase = "failed"
)

// Rollout is the record of one deployment.
type Rollout struct {
	Revision int               `json:"revision"`
	Phase    Phase             `json:"phase"`
	Deadline time.Time         `json:"deadline"`
	Steps    []managerapi.Step `json:"steps"`
	Problem  *problem.Error    `json:"problem,omitempty"`
	Waiting  *problem.Error    `json:"waiting,omitempty"`
	// StoppedAt is when the revision before was stopped for this one; zero: it
	// serves, or did until the switch.
	StoppedAt time.Time `json:"stopped_at,omitzero"`
	// Gap is for how long nothing served, once something does again.
	Gap time.Duration `json:"gap,omitempty"`
	// Grant is the one that it was asked for under.
	Grant *owners.GrantID `json:"grant,omitempty"`
	// Warning is what went wrong on the way without ending it.
	Warning *problem.Error `json:"warning,omitempty"`
}

func (roll *Rollout) active() bool {
	return roll.Phase != PhaseDone && roll.Phase != PhaseFailed && roll.Phase != ""
}

// Role says what an instance is for.
type Role string

// Roles of an instance.
const (
	RoleApp  Role = "app"  // serves
	RolePull Role = "pull" // a job that fills the volume and ends
)

// Replica is one of the instances that an app is to have, over all attempts to run it.
type Replica struct {
	ID        string    `json:"id"`
	App       string    `json:"app"` // the app's id
	Role      Role      `json:"role"`
	Revision  int       `json:"revision"`
	Attempt   int       `json:"attempt"`  // number of the newest
	Restarts  int       `json:"restarts"` // after failures
	Failures  int       `json:"failures"` // in a row
	CreatedAt time.Time `json:"created_at"`
	NotBefore time.Time `json:"not_before,omitzero"` // back-off: the attempt starts no earlier
	// Recorded is the attempt whose end was judged last, so that one end is
	// never judged twice.
	Recorded int      `json:"recorded"`
	Done     bool     `json:"done,omitempty"`     // a job that succeeded, or a failure kept for its logs
	Removing bool     `json:"removing,omitempty"` // somebody removed it
	Renewing bool     `json:"renewing,omitempty"` // it ends, and starts again with a new certificate
	Member   memberID `json:"member,omitzero"`
	// Writes are the volumes that it writes, also once its revision counts no more.
	Writes   []string       `json:"writes,omitempty"`
	Problem  *problem.Error `json:"problem,omitempty"`
	ExitCode int            `json:"exit_code,omitempty"`
	OOM      bool           `json:"oom,omitempty"`
}
