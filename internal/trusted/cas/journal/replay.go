package journal

import (
	"context"
	"fmt"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

// Replay reads the whole log, checks its chain and learns what every row must be.
// It returns the head that the Store has, whose signature the caller checks as
// soon as it has the identity key.
func (j *Journal) Replay(ctx context.Context) (owners.SignedHead, error) {
	head, err := j.store.Head(ctx)
	if err != nil {
		return head, fmt.Errorf("replay the audit log: %w", err)
	}

	for {
		page, err := j.store.Entries(ctx, j.chain.Seq, 10000)
		if err != nil {
			return head, fmt.Errorf("replay the audit log: %w", err)
		}
		if len(page) == 0 {
			break
		}

		for _, e := range page {
			if err := j.chain.Append(e); err != nil {
				return head, Damaged(err)
			}
			j.lastTime = e.Time
			for _, r := range e.Rows {
				j.mark(r)
			}
		}
	}

	if j.chain.Seq != head.Seq || j.chain.Hash != head.Hash {
		return head, Damaged(problem.New(problem.Internal, problem.RuleAuditLogCut, "the log ends at entry %d with %s", j.chain.Seq, j.chain.Hash).
			Want("entry %d with %s, as its head says", head.Seq, head.Hash))
	}
	return head, nil
}

// Damaged says that the log is not the one that this CAS wrote, as err found out.
func Damaged(err error) error {
	return problem.New(problem.Internal, problem.RuleAuditLogDamaged, "the audit log was cut or edited: %w", err).
		Want("the unbroken chain that this CAS wrote").
		Fix("restore the whole state folder from its newest backup; entries that owners have seen must not be missing")
}

// mark learns what a row is from its entry in the log: under mu, or before the
// committer runs.
func (j *Journal) mark(r owners.Row) {
	if r.Hash.IsZero() {
		delete(j.marks, RowID(r.ID))
		return
	}
	j.marks[RowID(r.ID)] = rowMark{version: r.Version, hash: r.Hash}
}
