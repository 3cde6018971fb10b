package cas

import (
	"context"
	"time"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
)

// secretsOf returns the named secrets' values for a release, generating what is
// missing, due, or to be fresh since a rotation. Values live as long as their
// session; they are durable before they are used. The earliest time at which a
// certificate is to be renewed comes with them.
func (c *CAS) secretsOf(ctx context.Context, s *sessionState, names []string) (map[string]*secrets.Material, time.Time, error) {
	s.secretMu.Lock()
	defer s.secretMu.Unlock()
	if err := c.loadPending(ctx, s); err != nil {
		return nil, time.Time{}, err
	}

	got, err := c.resolve(ctx, s, names, resolving{afresh: s.pending})
	return got.Materials, got.Due, err
}

// publishedOf returns the named secrets' values for whoever reads them: those that
// instances have, and others only from the release on that made them. What never was
// is made; nothing is renewed.
func (c *CAS) publishedOf(ctx context.Context, s *sessionState, names []string, who Caller) (map[string]*secrets.Material, error) {
	s.secretMu.Lock()
	defer s.secretMu.Unlock()
	got, err := c.resolve(ctx, s, names, resolving{asTheyAre: true, who: who})
	return got.Materials, err
}

// resolving is for whom secrets are resolved.
type resolving struct {
	afresh    map[string]bool // what is generated again
	asTheyAre bool            // nothing is renewed
	who       Caller          // who stands in the log; zero: a release does, which has an entry of its own
}

// resolve works out secrets and makes durable what was generated, under s.mu and
// s.secretMu.
func (c *CAS) resolve(ctx context.Context, s *sessionState, names []string, how resolving) (secrets.Resolved, error) {
	got, err := secrets.Source{
		Secrets:   s.plan.secrets,
		Kept:      s.secrets,
		Read:      func(ctx context.Context, name string) ([]byte, error) { return c.journal.Read(ctx, s.secretRow(name)) },
		Afresh:    how.afresh,
		AsTheyAre: how.asTheyAre,
		Now:       c.now(),
	}.Resolve(ctx, names)
	if err != nil || len(got.Made) == 0 {
		return got, err
	}

	if err := c.keepMade(ctx, s, got.Made, how.who); err != nil {
		return secrets.Resolved{}, err
	}
	return got, nil
}

// keepMade commits generated values, then keeps them, under s.mu and s.secretMu.
func (c *CAS) keepMade(ctx context.Context, s *sessionState, made []secrets.Made, who Caller) error {
	var rows []journal.Write
	for _, m := range made {
		rows = append(rows, journal.Write{ID: s.secretRow(m.Name), Plain: m.Row})
	}
	waited, err := c.noLongerPending(ctx, s, made)
	if err != nil {
		return err
	}

	_, err = c.journal.Commit(ctx, journal.Change{
		Event:   owners.EventSecretGenerated,
		Actor:   who.Key,
		Request: who.Request,
		Session: s.name,
		Rows:    append(rows, waited...),
	})
	if err != nil {
		return err
	}

	for _, m := range made {
		s.secrets[m.Name] = m.Value
		delete(s.pending, m.Name)
	}
	return nil
}
