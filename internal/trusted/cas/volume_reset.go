package cas

import (
	"context"
	"fmt"
	"slices"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/wire"
)

// ResetVolume starts a volume afresh: empty, with another id and another key. The
// old key is forgotten, and with it whatever was sealed under it. That is refused
// while an instance has the lease. Instances that read a private copy go on with
// it and get it no second time.
func (c *CAS) ResetVolume(ctx context.Context, who Caller, req owners.ResetVolume) (owners.VolumeReset, error) {
	out, err := c.resetVolume(ctx, who, req)
	return out, chained(err, "Failed to reset a volume of session '%s'", req.Session)
}

func (c *CAS) resetVolume(ctx context.Context, who Caller, req owners.ResetVolume) (owners.VolumeReset, error) {
	if err := checkAPIVersion(req.Version); err != nil {
		return owners.VolumeReset{}, err
	}

	// No release and no commit is under way while the session is locked for writing.
	s, err := c.updating(ctx, who, req.Session)
	if err != nil {
		return owners.VolumeReset{}, err
	}
	defer s.mu.Unlock()

	v, err := c.resettable(ctx, s, req.Volume)
	if err != nil {
		return owners.VolumeReset{}, err
	}

	b, err := secrets.Random(64)
	if err != nil {
		return owners.VolumeReset{}, err
	}
	rec := volumeRecord{
		ID:    ident.Digest(b[:32]),
		Key:   b[32:],
		Lease: v.rec.Lease, // fencing numbers go on
	}
	row, err := v.put(rec)
	if err != nil {
		return owners.VolumeReset{}, err
	}

	_, err = c.journal.Commit(ctx, journal.Change{
		Event:   owners.EventVolumeReset,
		Actor:   who.Key,
		Request: who.Request,
		Session: s.name,
		Detail:  map[string]string{"volume": v.name, "generation": fmt.Sprint(v.rec.Generation), "tag": v.rec.Tag.String()},
		Rows:    []journal.Write{row},
	})
	if err != nil {
		return owners.VolumeReset{}, err
	}

	was := v.rec.Generation
	clear(v.rec.Key)
	clear(v.rec.NextKey)
	v.rec = rec
	s.forgetReplies(v.name)
	return owners.VolumeReset{Version: owners.Version, Session: s.name, Volume: v.name, Was: was}, nil
}

// resettable returns a volume of the session that was used and that nobody
// writes, under s.mu held for writing.
func (c *CAS) resettable(ctx context.Context, s *sessionState, name string) (*volume, error) {
	if !slices.ContainsFunc(s.plan.session.Volumes, func(v session.Volume) bool { return v.Name == name }) {
		return nil, problem.New(problem.NotFound, problem.RuleVolumeUnknown, "session %q has no volume %.140q", s.name, name).
			Fix("look at the session: cupel session read %s", s.name)
	}

	v := s.volume(name)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.load(ctx, c.journal); err != nil {
		return nil, err
	}

	if v.rec.ID.IsZero() {
		return nil, problem.New(problem.Conflict, ruleVolumeUnused, "volume %s was never used", name).
			Fix("there is nothing to reset")
	}
	if c.running(v.rec.Holder) {
		p := *problem.From(c.leaseHeld(name, v.rec.Holder))
		return nil, p.Want("a volume that no instance writes").
			Fix("stop the instance first; one that is no more loses the lease after %s of silence", missedReports*c.keepAlive)
	}
	return v, nil
}

// forgetReplies drops the answers to instances that hold the key of a volume's
// former state, under s.mu held for writing.
func (s *sessionState) forgetReplies(volume string) {
	for _, in := range s.all() {
		in.mu.Lock()
		if in.reply != nil && slices.ContainsFunc(in.reply.Volumes, func(v wire.Volume) bool { return v.Name == volume }) {
			in.reply = nil
		}
		in.mu.Unlock()
	}
}
