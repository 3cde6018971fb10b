package node

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/manager"
)

// Adopt takes over what an earlier process left: running instances go on
// untouched, the ends of others are recorded, and whatever has no complete
// record is removed: containers, namespaces, addresses, folders.
//
// What can't be read, taken over or removed is told, and Run tries it again: what
// one instance has is no reason not to look after the others.
func (n *Node) Adopt(ctx context.Context) error {
	records, damaged, err := n.journal.load()
	if err != nil {
		return err
	}

	for _, d := range damaged {
		n.tellDamage(ctx, d)
	}

	for _, r := range records {
		i := newInstance(r)
		i.pending = true
		n.mu.Lock()
		n.instances[r.Spec.ID] = i
		n.mu.Unlock()
	}

	n.look(ctx)
	return nil
}

func (n *Node) tellDamage(ctx context.Context, d damage) {
	where := "it can't be put aside either"
	if d.file != "" {
		where = "it was put aside as node/" + d.file + ", which can be removed once nobody wants to look at it"
	}
	n.tell(ctx, manager.Incident{
		Warning:  true,
		Reason:   reasonDamaged,
		Instance: d.id,
		Message: fmt.Sprintf("the record of instance %s can't be read (%v): %s. What is left of the instance is removed, "+
			"and if it ran, what it wrote into a volume since it started is lost. What is started in its place, the app's next event says. "+
			"Look at the disk (dmesg)", d.id, d.why, where),
	})
}

// look goes once through everything that is the node's: the instances that are still to be
// taken over or removed, and what there is of instances that no record names.
func (n *Node) look(ctx context.Context) {
	n.note(ctx, "look after instances", "", n.settlePending(ctx))
	n.note(ctx, "look for what is left of instances", "", n.sweep(ctx))
}

// settlePending finishes what is pending: instances of an earlier process, and those
// whose removal failed.
func (n *Node) settlePending(ctx context.Context) error {
	var pending []*instance
	n.mu.Lock()
	for _, i := range n.instances {
		if i.pending {
			pending = append(pending, i)
		}
	}
	n.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}

	containers, err := n.cfg.Runtime.List(ctx)
	if err != nil {
		n.mu.Lock()
		for _, i := range pending {
			n.countAsIll(i)
		}
		n.mu.Unlock()
		return fmt.Errorf("list containers: %w", err)
	}
	state := map[ident.AttemptID]ContainerState{}
	for _, c := range containers {
		state[c.ID] = c
	}

	// What one of them has is no reason to leave the others.
	for _, i := range pending {
		if !i.op.TryLock() {
			continue // somebody stops or removes it just now
		}
		id := i.rec.Spec.ID
		err := n.settle(ctx, i, state[id])
		n.note(ctx, "take over or remove an instance", id, err)

		n.mu.Lock()
		if i.pending = err != nil; i.pending {
			n.countAsIll(i)
		}
		n.mu.Unlock()
		i.op.Unlock()
	}
	return nil
}

// countAsIll says that an instance of which nothing is known is ill, so that nobody
// waits to hear of it; Node.mu is held.
func (n *Node) countAsIll(i *instance) {
	if i.rec.Spec.Port != 0 && i.health == manager.HealthUnknown {
		i.health = manager.HealthUnhealthy
		n.publishStatus(i)
	}
}

// settle takes over one instance that runs, removes it if it was made by half, and records
// its end if it ended unseen. The op lock is held.
func (n *Node) settle(ctx context.Context, i *instance, c ContainerState) error {
	id := i.rec.Spec.ID
	n.mu.Lock()
	current := n.instances[id] == i
	made := i.rec.Made
	ended := i.rec.Exit != nil
	n.mu.Unlock()

	switch {
	case !current:
		return nil
	case !made:
		n.cfg.Logger.InfoContext(ctx, "removing half-made instance", "instance", id)
		return n.destroy(ctx, i)
	case ended:
		return nil
	case c.Running, c.ExitedAt.IsZero() && n.maybeRuns(ctx, i):
		return n.adoptRunning(ctx, i)
	}
	n.exitSeen(ctx, i, c)
	return nil
}

// adoptRunning takes over one instance that runs.
func (n *Node) adoptRunning(ctx context.Context, i *instance) error {
	id := i.rec.Spec.ID
	if !i.watched {
		// Known at once, so that nobody takes it for ill while it is looked at.
		if i.rec.Spec.Port != 0 && n.answers(ctx, i) {
			if inferred, _ := n.healthSeen(i, true, false); inferred {
				n.persist(ctx, i)
			}
		}
		n.watch(i, true)
		n.notify(i)
		i.watched = true
	}

	if err := n.openSockets(i); err != nil {
		return fmt.Errorf("listen for the instance's reports: %w", err)
	}

	n.cfg.Logger.InfoContext(ctx, "instance adopted", "instance", id)
	return nil
}

// sweep removes what there is of instances that no record names. The table is looked
// at before it is listed and after: what was removed meanwhile is gone, and what is
// being made is in the table by then.
func (n *Node) sweep(ctx context.Context) error {
	n.mu.Lock()
	known := maps.Clone(n.instances)
	n.mu.Unlock()

	found, err := n.leftovers(ctx)
	if err != nil {
		return err
	}

	for _, id := range found {
		if known[id] != nil {
			continue
		}
		i := n.claimLeftover(id)
		if i == nil {
			continue
		}

		err := n.destroy(ctx, i)
		i.op.Unlock()
		if err == nil {
			n.tell(ctx, manager.Incident{Reason: reasonRemoved, Message: "what was left of instance " + string(id) + " was removed"})
		}
		n.note(ctx, "take over or remove an instance", id, err)
	}
	return nil
}

// claimLeftover puts an id that only has leftovers into the table, so that nobody
// starts it meanwhile, and holds its op lock; nil for one that is somebody's.
func (n *Node) claimLeftover(id ident.AttemptID) *instance {
	n.mu.Lock()
	defer n.mu.Unlock()

	if n.instances[id] != nil {
		return nil
	}

	r := &record{CreatedAt: time.Now().UTC()}
	r.Spec.ID = id
	i := newInstance(r)
	i.pending = true // should its removal fail

	i.op.Lock()
	n.instances[id] = i
	return i
}

// leftovers returns the ids of which anything is there.
func (n *Node) leftovers(ctx context.Context) ([]ident.AttemptID, error) {
	found, err := n.cfg.Runtime.Leftovers(ctx)
	if err != nil {
		return nil, fmt.Errorf("list what is left in containerd: %w", err)
	}
	held, err := n.cfg.Network.Held()
	if err != nil {
		return nil, err
	}

	found = append(found, held...)
	for _, dir := range []string{"run", "etc", "logs", "netns"} {
		entries, err := os.ReadDir(n.dir(dir))
		if err != nil {
			return nil, fmt.Errorf("list what is left: %w", err)
		}
		for _, e := range entries {
			found = append(found, ident.AttemptID(strings.TrimSuffix(e.Name(), "/")))
		}
	}

	slices.Sort(found)
	found = slices.Compact(found)
	return slices.DeleteFunc(found, func(id ident.AttemptID) bool { return !validID.MatchString(string(id)) }), nil
}
