package node

import (
	"context"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/manager"
)

// backlog is what one watcher has not taken yet: per instance the newest event,
// in the order of their first. A slow watcher loses steps between, never the
// last state, and never holds up anybody.
type backlog struct {
	order []ident.AttemptID
	last  map[ident.AttemptID]manager.InstanceEvent
	wake  chan struct{}
}

// Watch implements manager.Backend.
func (n *Node) Watch(ctx context.Context) (<-chan manager.InstanceEvent, error) {
	out := make(chan manager.InstanceEvent)
	b := &backlog{last: map[ident.AttemptID]manager.InstanceEvent{}, wake: make(chan struct{}, 1)}

	n.mu.Lock()
	n.watchers[out] = b
	n.mu.Unlock()

	go func() {
		defer close(out)
		defer func() {
			n.mu.Lock()
			delete(n.watchers, out)
			n.mu.Unlock()
		}()

		for {
			n.mu.Lock()
			e, ok := b.take()
			n.mu.Unlock()
			if !ok {
				select {
				case <-b.wake:
					continue
				case <-ctx.Done():
					return
				}
			}

			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}()

	return out, nil
}

// take is the oldest instance's event, and takes it out of the backlog.
func (b *backlog) take() (manager.InstanceEvent, bool) {
	if len(b.order) == 0 {
		return manager.InstanceEvent{}, false
	}

	id := b.order[0]
	b.order = b.order[1:]
	e := b.last[id]
	delete(b.last, id)
	return e, true
}

// put replaces what the watcher hasn't taken yet of the same instance.
func (b *backlog) put(e manager.InstanceEvent) {
	id := e.Status.ID
	if _, waiting := b.last[id]; !waiting {
		b.order = append(b.order, id)
	}
	b.last[id] = e

	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// publish tells all watchers; Node.mu is held.
func (n *Node) publish(e manager.InstanceEvent) {
	for _, b := range n.watchers {
		b.put(e)
	}
}

// publishStatus tells of an instance as it is; Node.mu is held.
func (n *Node) publishStatus(i *instance) {
	if i.rec.Made {
		n.publish(manager.InstanceEvent{Status: i.status()})
	}
}

// notify tells all watchers of an instance as it is.
func (n *Node) notify(i *instance) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.publishStatus(i)
}
