package cas

import (
	"context"
	"encoding/json"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/quota"
)

// Reading holds a session as a slow release does, until unlock is called.
func (c *CAS) Reading(ctx context.Context, name ident.SessionName) (unlock func(), err error) {
	s, err := c.reading(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.mu.RUnlock, nil
}

// Beat says that this process runs.
func (c *CAS) Beat() { c.heartbeat() }

// Lapse ends the rights of the instance with this key as a look that found it
// overdue does.
func (c *CAS) Lapse(ctx context.Context, key ident.KeyHash) {
	if v, ok := c.instances.Load(key); ok {
		c.lapse(ctx, v.(*instance))
	}
}

// InMemory counts the sessions of which something is in memory, and those whose
// plan is.
func (c *CAS) InMemory() (states, plans int) {
	c.sessions.Range(func(_, v any) bool {
		s := v.(*sessionState)
		s.mu.RLock()
		defer s.mu.RUnlock()
		states++
		if s.plan != nil {
			plans++
		}
		return true
	})
	return states, plans
}

// Loaded is what the loaded sessions weigh.
func (c *CAS) Loaded() int64 { return c.loaded.Load() }

// MaxLoaded is how much they may weigh.
const MaxLoaded = maxLoaded

// Used is what a key has, by the names of quotas.
func (c *CAS) Used(who ident.KeyHash) map[string]int64 {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	out := map[string]int64{}
	for m := range quota.Measures {
		if n := usedOf(c.ledger.keys[who], m); n != 0 {
			out[m.String()] = n
		}
	}
	return out
}

// UsedInAll is what all have.
func (c *CAS) UsedInAll() map[string]int64 {
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	out := map[string]int64{}
	for m := range quota.Measures {
		if n := c.ledger.total[m]; n != 0 {
			out[m.String()] = n
		}
	}
	return out
}

// AsBefore makes a session's row what a CAS without quotas wrote.
func (c *CAS) AsBefore(ctx context.Context, name ident.SessionName) error {
	rec, err := c.sessionRecord(ctx, name)
	if err != nil {
		return err
	}
	rec.Opened, rec.Charges = payer{}, nil
	plain, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	_, err = c.journal.Commit(ctx, journal.Change{Event: owners.EventSessionUpdated, Session: name, Rows: []journal.Write{{ID: sessionRow(name), Plain: plain}}})
	return err
}

// Evict lets go of what is idle at now.
func (c *CAS) Evict(now time.Time) { c.evict(now) }

// FillParser takes all turns to read large texts, until leave is called.
func (c *CAS) FillParser(ctx context.Context) (leave func()) {
	var leaves []func()
	for range cap(c.parser.large) {
		l, err := c.enterParser(ctx, smallText+1)
		if err != nil {
			panic(err)
		}
		leaves = append(leaves, l)
	}
	return func() {
		for _, l := range leaves {
			l()
		}
	}
}
