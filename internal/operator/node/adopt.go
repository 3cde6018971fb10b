package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Adopt takes over what an earlier process left: running instances go on
// untouched, the ends of others are recorded, and whatever has no complete
// record is removed: containers, namespaces, addresses, folders.
func (n *Node) Adopt(ctx context.Context) error {
	records, err := n.journal.load()
	if err != nil {
		return err
	}
	containers, err := n.cfg.Runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	state := map[string]ContainerState{}
	for _, c := range containers {
		state[c.ID] = c
	}
	known := map[string]bool{}
	var errs []error
	for _, r := range records {
		known[r.Spec.ID] = true
		i := newInstance(r)
		n.mu.Lock()
		n.instances[r.Spec.ID] = i
		n.mu.Unlock()
		i.op.Lock()
		switch {
		case !r.Made:
			n.cfg.Logger.InfoContext(ctx, "removing half-made instance", "instance", r.Spec.ID)
			errs = append(errs, n.destroy(ctx, i))
		case r.Exit == nil:
			errs = append(errs, n.adopt(ctx, i, state[r.Spec.ID]))
		case !state[r.Spec.ID].ExitedAt.IsZero():
			go n.reap(context.WithoutCancel(ctx), r.Spec.ID)
		}
		i.op.Unlock()
	}
	for _, id := range n.orphans(containers, known) {
		n.cfg.Logger.InfoContext(ctx, "removing orphan", "instance", id)
		errs = append(errs, n.cfg.Runtime.Delete(ctx, id), n.free(ctx, id))
	}
	return errors.Join(errs...)
}

// adopt takes over one instance that did not end while anybody looked.
func (n *Node) adopt(ctx context.Context, i *instance, c ContainerState) error {
	if !c.Running {
		n.exitSeen(ctx, i, c)
		return nil
	}
	if err := n.openSockets(i); err != nil {
		return err
	}
	// Known at once, so that nobody takes it for ill while it is looked at.
	if i.rec.Spec.Port != 0 && n.answers(ctx, i) {
		if inferred, _ := n.healthSeen(i, true); inferred {
			n.persist(ctx, i)
		}
	}
	n.watch(i, true)
	n.notify(i)
	n.cfg.Logger.InfoContext(ctx, "instance adopted", "instance", i.rec.Spec.ID)
	return nil
}

// orphans returns the ids of which something is there, but no record.
func (n *Node) orphans(containers []ContainerState, known map[string]bool) []string {
	found := map[string]bool{}
	for _, c := range containers {
		found[c.ID] = true
	}
	for _, dir := range []string{"run", "etc", "logs", "netns"} {
		entries, _ := os.ReadDir(n.dir(dir)) // New made them
		for _, e := range entries {
			found[strings.TrimSuffix(e.Name(), "/")] = true
		}
	}
	var ids []string
	for id := range found {
		if !known[id] && validID.MatchString(id) {
			ids = append(ids, id)
		}
	}
	return ids
}
