package cas

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas/journal"
)

const (
	// stillAfter is how many rounds without a heartbeat say that this process stood
	// still: nobody could report meanwhile.
	stillAfter = 3
	// lapsesAtOnce is how many instances lapse beside each other, so that their
	// commits share transactions.
	lapsesAtOnce = 64
)

// round is the time between two looks at who stopped reporting.
func (c *CAS) round() time.Duration { return max(c.keepAlive/3, 10*time.Millisecond) }

// every calls f each round until ctx ends.
func (c *CAS) every(ctx context.Context, f func()) error {
	tick := time.NewTicker(c.round())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f()
		}
	}
}

// heartbeat notices when this process stood still. It does nothing else: what
// strangers have the CAS do in a round is no standstill.
func (c *CAS) heartbeat() {
	now := c.now()
	if last := c.beat.Load(); last != nil && now.Sub(*last) > stillAfter*c.round() {
		c.stood.Store(&now) // before anybody sees that it runs again
	}
	c.beat.Store(&now)
}

// silence is for how long in has not been heard of, but for the time before the
// last standstill.
func (c *CAS) silence(in *instance, now time.Time) time.Duration {
	since := *in.seen.Load()
	if stood := c.stood.Load(); stood != nil && stood.After(since) {
		since = *stood
	}
	return now.Sub(since)
}

// overdue says that in was silent for longer than it may be. After a standstill
// that the heartbeat did not see yet nobody is.
func (c *CAS) overdue(in *instance) bool {
	now := c.now()
	return now.Sub(*c.beat.Load()) <= stillAfter*c.round() && c.silence(in, now) > c.patience(in)
}

// lapses ends the rights of those that stopped reporting.
func (c *CAS) lapses(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(lapsesAtOnce)
	c.instances.Range(func(_, v any) bool {
		if in := v.(*instance); in.live.Load() && c.overdue(in) {
			g.Go(func() error { c.lapse(ctx, in); return nil })
		}
		return ctx.Err() == nil
	})
	_ = g.Wait() // never an error
}

// lapse ends the rights of one that is still silent.
func (c *CAS) lapse(ctx context.Context, in *instance) {
	in.session.mu.RLock()
	defer in.session.mu.RUnlock()
	in.mu.Lock()
	defer in.mu.Unlock()

	if in.rec.State != owners.Running || !c.overdue(in) {
		return
	}

	rec := in.rec
	rec.State, rec.Ended = owners.Lapsed, c.now().UTC()
	if err := c.end(ctx, in, rec, journal.Change{Event: owners.EventInstanceLapsed}); err != nil {
		c.log.Warn("lapse not recorded yet", "instance", in.id.Short(), "error", err)
		return
	}
	c.log.Info("instance lapsed", "instance", in.id.Short(), "session", in.session.name, "service", rec.Service)
}

// sweep ends grants whose time is over, forgets what ended long ago, and takes out
// of memory what nobody asks for.
func (c *CAS) sweep(ctx context.Context) {
	now := c.now()
	c.endOverdueGrants(ctx, now)
	c.forget(ctx)
	c.evict(now)
}
