package manager

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"log/slog"
	"strings"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	managerapi "cupel.dev/cupel/api/manager"
	"cupel.dev/cupel/api/problem"
)

// Catalog knows the images that the operator offers.
type Catalog interface {
	// Runtimes lists them, what can't be used with its problem; the one named "puller" fills
	// volumes.
	Runtimes(ctx context.Context) ([]managerapi.Runtime, error)
	// Runtime returns the one of this name.
	Runtime(ctx context.Context, name string) (managerapi.Runtime, error)
}

// PullerRuntime is the name of the runtime that fills volumes.
const PullerRuntime = "puller"

// Config is what a Manager is made of. All fields but Log, Limits,
// NewID and Incidents are required.
type Config struct {
	Store    Store
	Backend  Backend
	Balancer Balancer
	Catalog  Catalog
	// Grants reaches CASes as whoever holds grants, with the operator's key.
	Grants Grants
	// CAS is the CAS that sessions are in unless a request names another.
	CAS managerapi.CASRef
	// PortFree answers nil if nobody holds the TCP port on this machine.
	PortFree func(port uint16) error
	// Room answers nil if the disk has room for what a deployment writes; nil: it has.
	Room func() error
	// InTheWay says whether something of this machine is known to stand in the way of
	// instances; nil: nobody looks.
	InTheWay func() bool
	// FirstPort is where the search for a free port begins: 8082.
	FirstPort uint16
	// Launcher is the one that the Backend starts instances with that name none:
	// new revisions name it.
	Launcher ident.Digest
	// Operator is the key that may list and remove everything.
	Operator ident.KeyHash
	// Keys are what everybody else may have.
	Keys KeyLimits
	// Memory is the machine's; zero: nobody counts.
	Memory    MachineMemory
	Simulated bool // instances run on a simulated platform
	Now       func() time.Time
	// Incidents is where the machine's parts tell what happened to them; nil: nowhere.
	Incidents *Incidents
	Limits    *Limits
	NewID     func(prefix string) string
	Log       *slog.Logger
}

// Manager is the operator's manager. Make it with New, run it with Run.
type Manager struct {
	cfg         Config
	limits      Limits
	wake        chan struct{} // of capacity 1
	mu          sync.Mutex    // guards what follows; held for no call of the Backend
	state       State
	byApp       replicasByApp // the state's replicas
	observed    map[ident.AttemptID]InstanceStatus
	images      map[ident.ImageRef]imageState
	applied     serving
	balance     balanceState
	taken       map[uint16]string           // by a port that another program has, the app that serves there
	drains      map[ident.AttemptID]drainee // by the attempt's id
	queued      map[string]bool             // ids of replicas that wait for their turn to start
	busy        map[string]bool
	startErrors map[ident.AttemptID]*problem.Error
	// uncleared are the rules of failures to end or remove attempts, by their id: each
	// is told once.
	uncleared  map[ident.AttemptID]problem.Rule
	deliveries map[string]delivery    // by the notice's id
	reached    map[string]reachResult // by the app's id
	changed    chan struct{}          // closed and replaced when anything changed
	newest     uint64                 // number of the last event that was written
	written    chan struct{}          // closed and replaced when events were written
	work       work
	following  followers
}

// New loads the state. Nothing happens before Run.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	state, err := cfg.Store.Load(ctx)
	if err != nil {
		return nil, err
	}

	// What Config leaves open.
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.NewID == nil {
		cfg.NewID = randomID
	}
	if cfg.Incidents == nil {
		cfg.Incidents = &Incidents{}
	}
	limits := DefaultLimits()
	if cfg.Limits != nil {
		limits = *cfg.Limits
	}

	// What an earlier manager left.
	for _, a := range state.Apps {
		if a.Rollout.active() {
			a.Rollout.takeUp(cfg.Now(), limits.Deadline)
		}
	}
	state.askAgain()

	observed := map[ident.AttemptID]InstanceStatus{}
	if list, err := cfg.Backend.List(ctx); err == nil { // so that the first answer isn't that nothing runs
		for _, s := range list {
			observed[s.ID] = s
		}
	}

	return &Manager{
		cfg:         cfg,
		limits:      limits,
		wake:        make(chan struct{}, 1),
		state:       state,
		byApp:       groupByApp(state.Replicas),
		observed:    observed,
		images:      map[ident.ImageRef]imageState{},
		drains:      map[ident.AttemptID]drainee{},
		busy:        map[string]bool{},
		startErrors: map[ident.AttemptID]*problem.Error{},
		uncleared:   map[ident.AttemptID]problem.Rule{},
		deliveries:  map[string]delivery{},
		reached:     map[string]reachResult{},
		changed:     make(chan struct{}),
		written:     make(chan struct{}),
	}, nil
}

func randomID(prefix string) string {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + "-" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

// poke makes the loop look again.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
