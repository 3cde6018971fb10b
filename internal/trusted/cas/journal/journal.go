package journal

import (
	"crypto/ecdsa"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/audit"
)

// MaxGroup is the most changes that one transaction holds.
const MaxGroup = 256

// Change is one entry of the log and the rows that it changes. The journal fills
// in number, time, versions and hashes.
type Change struct {
	Event   owners.Event
	Actor   ident.KeyHash
	Request string // the id of the request that asked for it
	Session ident.SessionName
	Detail  map[string]string // for people; what is long is cut
	Rows    []Write
}

// Write puts a row; a nil Plain removes it.
type Write struct {
	ID    RowID
	Plain []byte
}

// rowMark is what the log says about a row.
type rowMark struct {
	version uint64
	hash    ident.Digest
}

// Journal is the only way to the Store. The package comment has its rule.
type Journal struct {
	store Store
	seal  Sealer
	log   *slog.Logger
	now   func() time.Time

	queue  chan *group
	stop   chan struct{}
	done   chan struct{}
	closed sync.Once

	commitMu sync.Mutex // held by the committer over Commit and what follows
	mu       sync.RWMutex
	marks    map[RowID]rowMark // guarded by mu
	chain    audit.Chain       // guarded by commitMu
	lastTime int64             // of the last entry; guarded by commitMu
	key      *ecdsa.PrivateKey // the identity key; set before the committer runs
	last     atomic.Pointer[owners.SignedHead]
	broken   error         // why nothing can be committed any more; guarded by commitMu
	failed   chan struct{} // closed when broken is set
}

// group is what one caller wants to become true at once.
type group struct {
	changes []Change
	result  chan error
	head    owners.SignedHead // valid after result
}

// New makes a journal over a store. Nothing can be read or committed before
// Replay, and nothing committed before Start.
func New(store Store, seal Sealer, log *slog.Logger, now func() time.Time) *Journal {
	j := &Journal{
		store:  store,
		seal:   seal,
		log:    log,
		now:    now,
		queue:  make(chan *group, 4*MaxGroup),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
		failed: make(chan struct{}),
		marks:  make(map[RowID]rowMark),
	}
	j.last.Store(&owners.SignedHead{})
	return j
}

// Start checks the signature of the head that Replay returned, and runs the
// committer, which signs with key from now on.
func (j *Journal) Start(key *ecdsa.PrivateKey, head owners.SignedHead) error {
	j.key = key
	if head.Seq != 0 {
		if err := audit.VerifyHead(&key.PublicKey, head); err != nil {
			return Damaged(err)
		}
	}

	j.last.Store(&head)
	go j.run()
	return nil
}

// Close stops the committer after what is queued.
func (j *Journal) Close() {
	j.closed.Do(func() { close(j.stop) })
	<-j.done
}

// Head is the signed head of the log as of the last commit.
func (j *Journal) Head() owners.SignedHead { return *j.last.Load() }

// Failed is closed when nothing can be committed any more: Broken says why.
func (j *Journal) Failed() <-chan struct{} { return j.failed }

// Broken is why nothing can be committed any more; nil while changes can.
func (j *Journal) Broken() error {
	j.commitMu.Lock()
	defer j.commitMu.Unlock()
	return j.broken
}

// Healthy reports whether changes can still be committed, without waiting for one.
func (j *Journal) Healthy() error {
	select {
	case <-j.failed:
		return problem.New(problem.Unavailable, problem.RuleStore, "the store broke").Fix("restart the CAS")
	case <-j.stop:
		return stopping()
	default:
		return nil
	}
}

// stopping refuses a change that comes after the end.
func stopping() error {
	return problem.New(problem.Unavailable, ruleStopping, "the CAS is stopping").Fix("try again")
}

// unavailable is an error of the Store for whoever asked.
func unavailable(err error) error {
	if p, ok := errors.AsType[*problem.Error](err); ok && p.Kind == problem.Unavailable {
		return p
	}
	return problem.New(problem.Unavailable, problem.RuleStore, "%w", err).Fix("look at the CAS's log and disk, then try again")
}
