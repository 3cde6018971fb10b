package journal

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

// Read returns a row's plain bytes, nil if there is none, after checking it
// against the log.
func (j *Journal) Read(ctx context.Context, id RowID) ([]byte, error) {
	plain, err := j.readOnce(ctx, id)
	if err == nil || problem.From(err).Rule != ruleRolledBack {
		return plain, err
	}

	// A commit may have come between the two looks: look again without one.
	j.commitMu.Lock()
	defer j.commitMu.Unlock()
	return j.readOnce(ctx, id)
}

// readOnce looks at the mark, then at the Store. A commit between the two makes a
// row look as if it were another.
func (j *Journal) readOnce(ctx context.Context, id RowID) ([]byte, error) {
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

// IDs lists the rows whose id begins with prefix, in order.
func (j *Journal) IDs(prefix RowID) []RowID {
	j.mu.RLock()
	defer j.mu.RUnlock()

	var out []RowID
	for id := range j.marks {
		if strings.HasPrefix(string(id), string(prefix)) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Has reports whether the log knows a row.
func (j *Journal) Has(id RowID) bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	_, ok := j.marks[id]
	return ok
}

// Entries returns at most limit entries of the log after the given number, none
// beyond the returned head.
func (j *Journal) Entries(ctx context.Context, after uint64, limit int) ([]owners.Entry, owners.SignedHead, error) {
	head := j.Head()
	entries, err := j.store.Entries(ctx, after, limit)
	if err != nil {
		return nil, head, unavailable(err)
	}

	for i, e := range entries {
		if e.Seq > head.Seq { // committed while we looked
			entries = entries[:i]
			break
		}
	}
	return entries, head, nil
}

// SealedSize is how many bytes a row takes as the Store has it; 0 for none. It is
// no word on what stands in the row, and not checked against the log.
func (j *Journal) SealedSize(ctx context.Context, id RowID) (int64, error) {
	row, _, err := j.store.Row(ctx, id)
	if err != nil {
		return 0, unavailable(err)
	}
	return int64(len(row.Sealed)), nil
}
