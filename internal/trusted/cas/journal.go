package cas

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/audit"
)

// maxGroup is the most changes that one transaction holds.
const maxGroup = 256

// change is one entry of the log and the rows that it changes. The journal fills
// in number, time, versions and hashes.
type change struct {
	event   owners.Event
	actor   ident.KeyHash
	request string
	session ident.SessionName
	detail  map[string]string
	rows    []write
}

// write puts a row; a nil plain removes it.
type write struct {
	id    string
	plain []byte
}

// rowMark is what the log says about a row.
type rowMark struct {
	version uint64
	hash    ident.Digest
}

// journal is the only way to the Store. See the package comment for its rule.
type journal struct {
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
	marks    map[string]rowMark // guarded by mu
	chain    audit.Chain        // guarded by commitMu
	lastTime int64              // of the last entry; guarded by commitMu
	key      *ecdsa.PrivateKey  // the identity key; set before the committer runs
	head     atomic.Pointer[owners.SignedHead]
	broken   error         // why nothing can be committed any more; guarded by commitMu
	failed   chan struct{} // closed when broken is set
}

// group is what one caller wants to become true at once.
type group struct {
	changes []change
	result  chan error
	head    owners.SignedHead // valid after result
}

func newJournal(store Store, seal Sealer, log *slog.Logger, now func() time.Time) *journal {
	j := &journal{
		store: store, seal: seal, log: log, now: now,
		queue: make(chan *group, 4*maxGroup), stop: make(chan struct{}), done: make(chan struct{}), failed: make(chan struct{}),
		marks: make(map[string]rowMark),
	}
	j.head.Store(&owners.SignedHead{})
	return j
}

// replay reads the whole log, checks its chain and learns what every row must be.
// It returns the head that the Store has, whose signature the caller checks as
// soon as it has the identity key.
func (j *journal) replay(ctx context.Context) (owners.SignedHead, error) {
	head, err := j.store.Head(ctx)
	if err != nil {
		return head, fmt.Errorf("replay the audit log: %w", err)
	}
	for {
		page, err := j.store.Entries(ctx, j.chain.Seq, 10000)
		if err != nil {
			return head, fmt.Errorf("replay the audit log: %w", err)
		}
		for _, e := range page {
			if err := j.chain.Append(e); err != nil {
				return head, damagedLog(err)
			}
			j.lastTime = e.Time
			for _, r := range e.Rows {
				j.mark(r)
			}
		}
		if len(page) == 0 {
			break
		}
	}
	if j.chain.Seq != head.Seq || j.chain.Hash != head.Hash {
		return head, damagedLog(problem.New(problem.Internal, problem.RuleAuditLogCut, "the log ends at entry %d with %s", j.chain.Seq, j.chain.Hash).
			Want("entry %d with %s, as its head says", head.Seq, head.Hash))
	}
	return head, nil
}

func damagedLog(err error) error {
	return problem.New(problem.Internal, problem.RuleAuditLogDamaged, "the audit log was cut or edited: %w", err).
		Want("the unbroken chain that this CAS wrote").
		Fix("restore the whole state folder from its newest backup; entries that owners have seen must not be missing")
}

// start checks the head that replay returned and runs the committer.
func (j *journal) start(key *ecdsa.PrivateKey, head owners.SignedHead) error {
	j.key = key
	if head.Seq != 0 {
		if err := audit.VerifyHead(&key.PublicKey, head); err != nil {
			return damagedLog(err)
		}
	}
	j.head.Store(&head)
	go j.run()
	return nil
}

// close stops the committer after what is queued.
func (j *journal) close() {
	j.closed.Do(func() { close(j.stop) })
	<-j.done
}

func (j *journal) mark(r owners.Row) {
	if r.Hash.IsZero() {
		delete(j.marks, r.ID)
		return
	}
	j.marks[r.ID] = rowMark{r.Version, r.Hash}
}

// signedHead is the head of the last commit.
func (j *journal) signedHead() owners.SignedHead { return *j.head.Load() }

// commit makes changes true, all of them or none, and returns when they are
// durable. It does not end early with ctx: the outcome would be unknown.
func (j *journal) commit(ctx context.Context, changes ...change) (owners.SignedHead, error) {
	if err := ctx.Err(); err != nil {
		return owners.SignedHead{}, problem.New(problem.Unavailable, ruleCancelled, "%w", err)
	}
	g := &group{changes: changes, result: make(chan error, 1)}
	select {
	case j.queue <- g:
	case <-j.stop:
		return owners.SignedHead{}, stopping()
	}
	select {
	case err := <-g.result:
		return g.head, err
	case <-j.done: // the committer ended; it may have answered just before
		select {
		case err := <-g.result:
			return g.head, err
		default:
			return owners.SignedHead{}, stopping()
		}
	}
}

func stopping() error {
	return problem.New(problem.Unavailable, ruleStopping, "the CAS is stopping").Fix("try again")
}

func (j *journal) run() {
	defer close(j.done)
	for {
		select {
		case g := <-j.queue:
			j.commitGroups(j.gather(g))
		case <-j.stop:
			for {
				select {
				case g := <-j.queue:
					j.commitGroups(j.gather(g))
				default:
					return
				}
			}
		}
	}
}

// gather takes what waits, up to maxGroup changes.
func (j *journal) gather(first *group) []*group {
	groups := []*group{first}
	for n := len(first.changes); n < maxGroup; {
		select {
		case g := <-j.queue:
			groups = append(groups, g)
			n += len(g.changes)
		default:
			return groups
		}
	}
	return groups
}

func (j *journal) commitGroups(groups []*group) {
	head, err := j.tryCommit(groups)
	for _, g := range groups {
		g.head = head
		g.result <- err
	}
}

// tryCommit runs one transaction. Its own context: callers that went away don't
// take the others' changes with them.
func (j *journal) tryCommit(groups []*group) (owners.SignedHead, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	j.commitMu.Lock()
	defer j.commitMu.Unlock()
	if j.broken != nil {
		return owners.SignedHead{}, j.broken
	}
	batch, chain, at, err := j.build(groups)
	if err != nil {
		return owners.SignedHead{}, err
	}
	if err := j.store.Commit(ctx, batch); err != nil {
		kept, settleErr := j.settle(batch.Head)
		if settleErr != nil {
			j.broken = settleErr
			close(j.failed)
		}
		if !kept {
			return owners.SignedHead{}, unavailable(err)
		}
		j.log.Warn("store reported an error for a commit that it kept", "error", err)
	}
	j.mu.Lock()
	for _, e := range batch.Entries {
		for _, r := range e.Rows {
			j.mark(r)
		}
	}
	j.mu.Unlock()
	j.chain, j.lastTime = chain, at
	j.head.Store(&batch.Head)
	return batch.Head, nil
}

// settle finds out how a failed commit ended. Where that can't be told, memory
// and Store may differ and the journal is broken: only a restart mends it.
func (j *journal) settle(tried owners.SignedHead) (kept bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	have, err := j.store.Head(ctx)
	switch {
	case err != nil:
		return false, problem.New(problem.Unavailable, problem.RuleStore, "a commit failed and the store does not say how it ended: %w", err).
			Fix("restart the CAS when its disk works again")
	case have.Seq == tried.Seq && have.Hash == tried.Hash:
		return true, nil
	case have.Seq == j.chain.Seq && have.Hash == j.chain.Hash:
		return false, nil
	}
	return false, problem.New(problem.Internal, ruleStoreChanged, "the store's log ends at entry %d", have.Seq).
		Want("entry %d", j.chain.Seq).
		Fix("make sure that one CAS alone uses this state, then restart it")
}

func unavailable(err error) error {
	if p, ok := errors.AsType[*problem.Error](err); ok && p.Kind == problem.Unavailable {
		return p
	}
	return problem.New(problem.Unavailable, problem.RuleStore, "%w", err).Fix("look at the CAS's log and disk, then try again")
}

// build numbers, seals, chains and signs.
func (j *journal) build(groups []*group) (Batch, audit.Chain, int64, error) {
	var b Batch
	chain := j.chain
	at := max(j.now().UnixNano(), j.lastTime) // the log's time never runs back
	versions := make(map[string]uint64)
	last := make(map[string]int) // row id -> index in b.Rows: a row is written once
	for _, g := range groups {
		for _, c := range g.changes {
			e := owners.Entry{Seq: chain.Seq + 1, Time: at, Event: c.event, Actor: c.actor, Request: c.request, Session: c.session, Detail: brief(c.detail)}
			for _, w := range c.rows {
				v, ok := versions[w.id]
				if !ok {
					v = j.marks[w.id].version // only the committer writes marks
				}
				v++
				versions[w.id] = v
				row := Row{ID: w.id, Version: v}
				mark := owners.Row{ID: w.id, Version: v}
				if w.plain != nil {
					sealed, err := j.seal.Seal(w.id, v, w.plain)
					if err != nil {
						return b, chain, at, fmt.Errorf("seal row: %w", err)
					}
					row.Sealed, mark.Hash = sealed, ident.Sum(sealed)
				}
				e.Rows = append(e.Rows, mark)
				if i, ok := last[w.id]; ok {
					b.Rows[i] = row
				} else {
					last[w.id] = len(b.Rows)
					b.Rows = append(b.Rows, row)
				}
			}
			if err := chain.Append(e); err != nil {
				return b, chain, at, err
			}
			b.Entries = append(b.Entries, e)
		}
	}
	head, err := audit.Sign(j.key, chain, at)
	if err != nil {
		return b, chain, at, err
	}
	b.Head = head
	return b, chain, at, nil
}

// maxDetail is the most bytes of one detail in the log, which anybody reads and
// nothing shortens: what a change is in full stands in its row.
const maxDetail = 1024

func brief(detail map[string]string) map[string]string {
	var out map[string]string
	for key, text := range detail {
		if len(text) > maxDetail {
			if out == nil { // as good as never
				out = maps.Clone(detail)
			}
			out[key] = fmt.Sprintf("%s… (%d bytes in all)", strings.ToValidUTF8(text[:maxDetail], ""), len(text))
		}
	}
	if out == nil {
		return detail
	}
	return out
}

// read returns a row's plain bytes, nil if there is none, after checking it
// against the log.
func (j *journal) read(ctx context.Context, id string) ([]byte, error) {
	plain, err := j.readOnce(ctx, id)
	if err == nil || problem.From(err).Rule != ruleRolledBack {
		return plain, err
	}
	// A commit may have come between the two looks: look again without one.
	j.commitMu.Lock()
	defer j.commitMu.Unlock()
	return j.readOnce(ctx, id)
}

const ruleRolledBack problem.Rule = "row_rolled_back"

func (j *journal) readOnce(ctx context.Context, id string) ([]byte, error) {
	j.mu.RLock()
	want, known := j.marks[id]
	j.mu.RUnlock()
	row, found, err := j.store.Row(ctx, id)
	if err != nil {
		return nil, unavailable(err)
	}
	if !known && !found {
		return nil, nil
	}
	if !known || !found || row.Version != want.version || ident.Sum(row.Sealed) != want.hash {
		p := problem.New(problem.Internal, ruleRolledBack, "row %s has version %d", id, row.Version).
			Want("version %d with hash %s, as the audit log says", want.version, want.hash).
			Fix("restore the whole state folder from its newest backup: someone put back or changed a row")
		if !found {
			p.Actual = fmt.Sprintf("row %s is missing", id)
		}
		return nil, p
	}
	return j.seal.Open(id, row.Version, row.Sealed)
}

// ids lists the rows whose id begins with prefix, in order.
func (j *journal) ids(prefix string) []string {
	j.mu.RLock()
	defer j.mu.RUnlock()
	var out []string
	for id := range j.marks {
		if strings.HasPrefix(id, prefix) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// has reports whether the log knows a row.
func (j *journal) has(id string) bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	_, ok := j.marks[id]
	return ok
}
