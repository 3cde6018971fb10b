package launcher

import (
	"context"
	"sync"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/instance/node"
	"cupel.dev/cupel/internal/trusted/wire"
)

// reportTimeout bounds one report to the node.
const reportTimeout = time.Second

// teller tells the node how far the instance is. Nothing waits for a node that
// doesn't listen: its daemon may be down, and the app has to start all the same.
// What it missed, the instance's id above all, it is told again by keep.
type teller struct {
	mu     sync.Mutex // held over a report, so that they arrive in their order
	node   *node.Node
	status wire.Status
	missed bool // the node doesn't know status
}

// tell changes the status, reports it and returns the node's orders. A nil node is
// told nothing.
func (t *teller) tell(node *node.Node, change func(*wire.Status)) wire.Orders {
	t.mu.Lock()
	defer t.mu.Unlock()

	t.node = node
	change(&t.status)
	return t.send()
}

// attested notes the instance's id, and when it has to be replaced, for the reports
// from now on.
func (t *teller) attested(id ident.InstanceID, until int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.InstanceID = id
	t.status.CertificateUntil = until
}

// keep tries again what the node missed, until ctx ends.
func (t *teller) keep(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t.mu.Lock()
		if t.missed {
			t.send()
		}
		t.mu.Unlock()
	}
}

// send is one try; mu is held.
func (t *teller) send() wire.Orders {
	if t.node == nil {
		return wire.Orders{}
	}
	ctx, cancel := context.WithTimeout(context.Background(), reportTimeout)
	defer cancel()

	orders, err := t.node.Report(ctx, t.status)
	t.missed = err != nil
	return orders
}

// renewed tells the node when the instance has to be replaced, after the app got
// other certificates.
func (t *teller) renewed(until int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.CertificateUntil = until
	t.send()
}
