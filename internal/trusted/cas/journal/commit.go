package journal

import (
	"context"
	"time"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

// Commit makes changes true, all of them or none, and returns when they are
// durable. It does not end early with ctx: the outcome would be unknown.
func (j *Journal) Commit(ctx context.Context, changes ...Change) (owners.SignedHead, error) {
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

// run is the committer. What is queued when it is told to stop is committed still.
func (j *Journal) run() {
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

// gather takes what waits, up to MaxGroup changes.
func (j *Journal) gather(first *group) []*group {
	groups := []*group{first}
	for n := len(first.changes); n < MaxGroup; {
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

// commitGroups commits groups together and answers those who wait for them.
func (j *Journal) commitGroups(groups []*group) {
	head, err := j.tryCommit(groups)
	for _, g := range groups {
		g.head = head
		g.result <- err
	}
}

// tryCommit runs one transaction. Its own context: callers that went away don't
// take the others' changes with them.
func (j *Journal) tryCommit(groups []*group) (owners.SignedHead, error) {
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

	// It is durable: what is published from here on is true after a crash too.
	j.mu.Lock()
	for _, e := range batch.Entries {
		for _, r := range e.Rows {
			j.mark(r)
		}
	}
	j.mu.Unlock()

	j.chain, j.lastTime = chain, at
	j.last.Store(&batch.Head)
	return batch.Head, nil
}

// settle finds out how a failed commit ended. Where that can't be told, memory
// and Store may differ and the journal is broken: only a restart mends it.
func (j *Journal) settle(tried owners.SignedHead) (kept bool, err error) {
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
