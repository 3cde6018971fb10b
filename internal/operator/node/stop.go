package node

import (
	"cmp"
	"context"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

const (
	killWait  = 30 * time.Second // how long a killed instance may take to be gone
	lookEvery = 500 * time.Millisecond
	// againEvery is how often a launcher that does not listen yet is asked to end.
	againEvery = 100 * time.Millisecond

	// reportWait is what a launcher gets beyond the grace to end what is left of
	// its app by itself and to tell the CAS and the node.
	reportWait = 15 * time.Second
	// commitStall is how long a launcher that stores volumes may be without
	// progress: longer than it tries to reach the CAS.
	commitStall = 2 * time.Minute
	// CommitLimit is how long it may take in all, beyond the grace.
	CommitLimit = 30 * time.Minute
)

// Stop implements manager.Backend. A launcher that stores the volumes of an app
// that ended well is waited for beyond grace, as long as it makes progress.
func (n *Node) Stop(ctx context.Context, id ident.AttemptID, grace time.Duration) error {
	i := n.find(id)
	if i == nil {
		return unknown(id)
	}
	i.op.Lock()
	defer i.op.Unlock()
	if n.find(id) != i {
		return unknown(id)
	}
	return n.halt(ctx, i, grace)
}

// StoreNothing says that nobody takes what instances store and tell when they end: they
// have their grace, and no time beyond it.
func (n *Node) StoreNothing() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nobodyStores = true
}

// StoreWithin says how long at most instances store volumes beyond their grace.
func (n *Node) StoreWithin(limit time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.commitLimit = limit
}

// halt ends an instance and waits for it. The op lock is held.
func (n *Node) halt(ctx context.Context, i *instance, grace time.Duration) error {
	id := i.rec.Spec.ID
	select {
	case <-i.exited:
		return nil
	default:
	}

	end := time.Now().Add(grace)
	n.mu.Lock()
	i.stopping = true
	i.graceEnds = end
	i.lastProgress = time.Now()
	n.publishStatus(i)
	n.mu.Unlock()

	// First it is asked to end, with all the patience that its volumes need.
	n.wakeAll(ctx, id)
	if ended, err := n.terminateEarly(ctx, i, grace); ended || err != nil {
		return err
	}
	if err := n.cfg.Runtime.Kill(ctx, id, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop instance %s: %w", id, err)
	}
	patience := func() time.Time {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.nobodyStores {
			return end
		}
		return i.patience(end, cmp.Or(n.commitLimit, CommitLimit))
	}
	if ended, err := n.awaitExit(ctx, i, patience); ended || err != nil {
		return err
	}

	// Then it is made to.
	n.mu.Lock()
	i.killed = true
	n.mu.Unlock()
	if err := n.cfg.Runtime.Kill(ctx, id, syscall.SIGKILL); err != nil {
		return fmt.Errorf("stop instance %s: %w", id, err)
	}
	if ended, err := n.awaitExit(ctx, i, fixedPatience(killWait)); ended || err != nil {
		return err
	}
	return problem.New(problem.Unavailable, ruleStopTimeout, "instance %s did not end within %s of SIGKILL", id, problem.Duration(killWait)).
		Fix("look at the node's containerd log, then remove the instance")
}

// patience is the time at which a launcher that was asked to end is killed. It follows from
// the phase that the launcher reported last; end is when its app's grace is over, and
// commit how long storing volumes may take beyond it. A launcher in any other phase isn't
// ending its app by itself, and gets no more than the grace. Node.mu is held.
func (i *instance) patience(end time.Time, commit time.Duration) time.Time {
	switch i.rec.Report.Phase {
	case wire.Stopping:
		return end.Add(reportWait)

	case wire.Exited, wire.Refused: // it is about to exit, maybe after a long commit
		if i.lastProgress.After(end) {
			end = i.lastProgress
		}
		return end.Add(reportWait)

	case wire.Committing:
		stalled := i.lastProgress.Add(commitStall)
		limit := end.Add(commit)
		if i.pushing > 0 || stalled.After(limit) {
			return limit
		}
		return stalled
	}
	return end
}

// fixedPatience is a patience that nothing changes.
func fixedPatience(wait time.Duration) func() time.Time {
	end := time.Now().Add(wait)
	return func() time.Time { return end }
}

// terminateEarly asks an instance to end whose launcher has not said a word yet.
// The kernel drops a signal for which process 1 has no handler, so it is sent
// again until the launcher listens.
func (n *Node) terminateEarly(ctx context.Context, i *instance, limit time.Duration) (ended bool, err error) {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		n.mu.Lock()
		deaf := i.rec.Report.Phase == ""
		n.mu.Unlock()
		if !deaf {
			return false, nil
		}

		if err := n.cfg.Runtime.Kill(ctx, i.rec.Spec.ID, syscall.SIGTERM); err != nil {
			return false, fmt.Errorf("stop instance %s: %w", i.rec.Spec.ID, err)
		}
		if ended, err := n.awaitExit(ctx, i, fixedPatience(min(limit, againEvery))); ended || err != nil {
			return ended, err
		}
	}
	return false, nil
}

// awaitExit reports whether the instance exited before patience ends, which may
// change meanwhile. It also looks by itself: nobody may be watching, or the event
// was lost.
func (n *Node) awaitExit(ctx context.Context, i *instance, patience func() time.Time) (bool, error) {
	for {
		left := time.Until(patience())
		look := time.NewTimer(max(0, min(left, lookEvery)))
		select {
		case <-i.exited:
			look.Stop()
			return true, nil
		case <-ctx.Done():
			look.Stop()
			return false, ctx.Err()
		case <-look.C:
		}

		if err := n.resync(ctx); err != nil {
			return false, err
		}
		if time.Until(patience()) > 0 {
			continue
		}

		select {
		case <-i.exited:
			return true, nil
		default:
			return false, nil
		}
	}
}

// Remove implements manager.Backend.
func (n *Node) Remove(ctx context.Context, id ident.AttemptID) error {
	i := n.find(id)
	if i == nil {
		return nil
	}
	i.op.Lock()
	defer i.op.Unlock()
	if n.find(id) != i {
		return nil
	}
	return n.destroy(ctx, i)
}

// RemoveAll removes every instance and the instances' empty control group.
func (n *Node) RemoveAll(ctx context.Context) error {
	if err := n.forEach(ctx, n.Remove); err != nil {
		return err
	}
	return n.RemoveCgroup()
}

// RemoveCgroup removes the instances' parent control group, once none is left
// in it; the next Start makes it again.
func (n *Node) RemoveCgroup() error { return n.cfg.Cgroups.Remove(n.cfg.Cgroup) }

// forEach calls f for every instance there is, a few at a time.
func (n *Node) forEach(ctx context.Context, f func(context.Context, ident.AttemptID) error) error {
	n.mu.Lock()
	ids := make([]ident.AttemptID, 0, len(n.instances))
	for id := range n.instances {
		ids = append(ids, id)
	}
	n.mu.Unlock()

	var g errgroup.Group
	g.SetLimit(8)
	for _, id := range ids {
		g.Go(func() error { return f(ctx, id) })
	}
	return g.Wait()
}
