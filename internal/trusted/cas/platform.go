package cas

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
)

const prefixPlatform = "platform/"

// platforms remembers, for each platform family (root and FMSPC), the newest
// collateral that was seen. Collateral comes through the operator's hands: an
// older set, still within its dates, could hide a revocation or an advisory.
type platforms struct {
	families sync.Map // journal.RowID -> *family
}

type family struct {
	mu   sync.Mutex // held over a change
	seen atomic.Pointer[collateralRecord]
}

// collateralRecord is immutable once it is published.
type collateralRecord struct {
	Issued     evidence.IssueDates `json:"issued"` // the newest, document by document
	Evaluation int                 `json:"evaluation"`
}

// check refuses claims that rest on something older than r, and tells whether
// they rest on something newer.
func (r *collateralRecord) check(claims evidence.Claims) (newer bool, err error) {
	for name, got := range claims.Issued {
		seen := r.Issued[name]
		if got.Before(seen) {
			return false, older(claims, "%s issued %s", name, got.UTC().Format(time.RFC3339)).
				Want("%s or later, as seen before", seen.UTC().Format(time.RFC3339))
		}
		newer = newer || got.After(seen)
	}
	if claims.EvaluationNumber < r.Evaluation {
		return false, older(claims, "evaluation data number %d", claims.EvaluationNumber).
			Want("%d or later, as seen before", r.Evaluation)
	}
	return newer || claims.EvaluationNumber > r.Evaluation, nil
}

// with is r and what the claims rest on.
func (r *collateralRecord) with(claims evidence.Claims) *collateralRecord {
	next := &collateralRecord{Issued: r.Issued.Clone(), Evaluation: max(r.Evaluation, claims.EvaluationNumber)}
	if next.Issued == nil {
		next.Issued = evidence.IssueDates{}
	}
	for name, got := range claims.Issued {
		if got.After(next.Issued[name]) {
			next.Issued[name] = got.UTC()
		}
	}
	return next
}

// newFamily is a family of which this was seen.
func newFamily(r *collateralRecord) *family {
	f := &family{}
	f.seen.Store(r)
	return f
}

// load reads what was seen before this process.
func (p *platforms) load(ctx context.Context, j *journal.Journal) error {
	for _, id := range j.IDs(prefixPlatform) {
		plain, err := j.Read(ctx, id)
		if err != nil {
			return fmt.Errorf("read what was seen of a platform: %w", err)
		}
		seen := &collateralRecord{}
		if err := json.Unmarshal(plain, seen); err != nil {
			return fmt.Errorf("read what was seen of a platform: row %s: %w", id, err)
		}
		p.families.Store(id, newFamily(seen))
	}
	return nil
}

// admit refuses collateral that is older than what was seen. Where it is newer,
// that is committed before admit returns, so that no restart forgets it.
func (p *platforms) admit(ctx context.Context, j *journal.Journal, claims evidence.Claims, who Caller) error {
	id := journal.RowID(prefixPlatform + claims.Root.String() + "/" + strings.ToLower(claims.FMSPC))
	v, ok := p.families.Load(id)
	if !ok {
		v, _ = p.families.LoadOrStore(id, newFamily(&collateralRecord{}))
	}
	f := v.(*family)
	if newer, err := f.seen.Load().check(claims); err != nil || !newer {
		return err
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	seen := f.seen.Load()
	if newer, err := seen.check(claims); err != nil || !newer {
		return err
	}

	next := seen.with(claims)
	plain, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("marshal platform: %w", err)
	}
	if _, err := j.Commit(ctx, journal.Change{
		Event:   owners.EventPlatformSeen,
		Actor:   who.Key,
		Request: who.Request,
		Rows:    []journal.Write{{ID: id, Plain: plain}},
	}); err != nil {
		return err
	}
	f.seen.Store(next)
	return nil
}

// older refuses collateral for what is said of it.
func older(claims evidence.Claims, format string, args ...any) *problem.Error {
	return problem.New(problem.Denied, ruleCollateralOlder, "the collateral of platform family %s: %s", claims.FMSPC, fmt.Sprintf(format, args...)).
		Fix("let the node fetch its platform's newest collateral")
}
