package cas

import (
	"context"
	"slices"
	"time"

	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/wire"
)

// again answers an instance that lost its reply, renews what it has, or takes it
// back after a silence: in any case it has one place and one row.
func (c *CAS) again(ctx context.Context, s *sessionState, in *instance, req request) (*wire.ReleaseReply, error) {
	in.mu.Lock()
	defer in.mu.Unlock()

	switch {
	case in.rec.State == "": // its release failed while we waited
		return nil, problem.New(problem.Unavailable, ruleReleaseFailed, "the first request of this instance failed").Fix("try again")
	case in.session != s || in.rec.Service != req.plan.service.Name || in.grant != req.grant:
		return nil, problem.New(problem.Conflict, ruleInstanceKeyUsed, "the key is that of another instance, of service %s", in.rec.Service).
			Fix("make a fresh key for every instance")
	case in.rec.State == owners.Lapsed:
		if err := c.readmit(ctx, in, req); err != nil {
			return nil, err
		}
	case in.rec.State != owners.Running:
		return nil, in.ended()
	}

	if in.reply == nil { // this CAS was restarted, or the instance has used its answer
		reply, due, err := c.answer(ctx, in, req.plan, nil, req.now)
		if err != nil {
			return nil, err
		}
		if err := c.renewed(ctx, in, req.who, due); err != nil {
			return nil, err
		}
		in.reply = reply
	}

	in.touch(req.now)
	reply := *in.reply
	reply.Version, reply.Head = req.Version, c.Head()
	return &reply, nil
}

// renewed commits that an instance has other certificates than before, with in
// locked. One that has none, and had none, changes nothing; one that had some is
// no longer told to renew them.
func (c *CAS) renewed(ctx context.Context, in *instance, who Caller, due time.Time) error {
	if due.IsZero() && in.rec.Due.IsZero() {
		return nil
	}

	rec := in.rec
	rec.Due = due
	rec.Renewed = c.now().UTC()
	row, err := in.put(rec)
	if err != nil {
		return err
	}

	_, err = c.journal.Commit(ctx, journal.Change{
		Event:   owners.EventInstanceRenewed,
		Actor:   who.Key,
		Request: who.Request,
		Session: in.session.name,
		Detail:  map[string]string{"instance": in.id.String(), "service": string(rec.Service)},
		Rows:    []journal.Write{row},
	})
	if err == nil {
		in.rec = rec
	}
	return err
}

// readmit gives a lapsed instance, which was attested again, its rights back,
// with in locked: its place if one is free, and its leases if nobody had them
// since and the session's current version still gives them.
func (c *CAS) readmit(ctx context.Context, in *instance, req request) error {
	if err := in.stillMounts(req.plan); err != nil {
		return err
	}
	if err := c.takePlace(in, in.rec.Service); err != nil {
		return err
	}
	committed := false
	defer func() {
		if !committed {
			in.grant.free(in.id)
		}
	}()

	rec := in.rec
	rec.State = owners.Running
	rec.Ended = time.Time{}
	rec.Claims = req.claims
	row, err := in.put(rec)
	if err != nil {
		return err
	}
	writes := []journal.Write{row}

	leased := in.leased()
	for _, v := range leased {
		v.mu.Lock()
		defer v.mu.Unlock()
		w, err := c.retake(ctx, in, v)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}

	_, err = c.journal.Commit(ctx, journal.Change{
		Event:   owners.EventInstanceReturned,
		Actor:   req.who.Key,
		Request: req.who.Request,
		Session: in.session.name,
		Detail:  map[string]string{"instance": in.id.String(), "service": string(rec.Service)},
		Rows:    writes,
	})
	if err != nil {
		return err
	}
	committed = true

	for _, v := range leased {
		v.rec.Holder = in.id
	}
	in.rec, in.reply = rec, nil
	in.touch(c.now())
	in.lapsed.Store(false)
	c.setLive(in, true)
	return nil
}

// stillMounts refuses an instance with a volume that its service no longer has, or
// no longer writes: what an update took away doesn't come back by a silence.
func (in *instance) stillMounts(sp *servicePlan) error {
	for _, had := range in.rec.Volumes {
		writes := had.Access == owners.ReadWrite
		given := slices.ContainsFunc(sp.mounts, func(m session.VolumeMount) bool {
			return m.Name == had.Name && (!writes || m.Policy == session.RollbackProtected)
		})
		if !given {
			return problem.New(problem.Denied, problem.RuleLeaseEnded, "the session was updated while the instance was silent: service %s no longer has volume %s as the instance got it", in.rec.Service, had.Name).
				Want("the volumes of the session's current version").
				Fix("restart the instance: it gets what the session gives now")
		}
	}
	return nil
}

// retake is the row by which in has the lease of v again, with v locked. Whoever
// had it in between may have written: then in is behind for good.
func (c *CAS) retake(ctx context.Context, in *instance, v *volume) (journal.Write, error) {
	if err := v.load(ctx, c.journal); err != nil {
		return journal.Write{}, err
	}

	i := slices.IndexFunc(in.rec.Volumes, func(m mounted) bool { return m.Name == v.name })
	had := in.rec.Volumes[i]
	if v.rec.ID != had.ID || v.rec.Lease != had.Lease || v.rec.Generation != had.Generation || v.rec.Tag != had.Tag {
		return journal.Write{}, problem.New(problem.Denied, problem.RuleLeaseEnded, "lease %d of volume %s ended while the instance was silent", had.Lease, v.name).
			Want("lease %d, which another instance got since", v.rec.Lease).
			Fix("restart the instance: it starts from the newest state")
	}

	rec := v.rec
	rec.Holder = in.id
	return v.put(rec)
}
