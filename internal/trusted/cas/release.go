package cas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/verify/appraise"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Release attests the caller and answers with what its session grants to its
// service. exporter is the connection's channel binding. The same key may ask
// again for as long as its instance runs, for a lost answer: attested again, it
// gets no second instance, volume or lease.
func (c *CAS) Release(ctx context.Context, who Caller, exporter [32]byte, req *wire.ReleaseRequest) (*wire.ReleaseReply, error) {
	if err := checkVersion(req.Version); err != nil {
		return nil, err
	}
	if err := checkNames(req); err != nil {
		return nil, err
	}
	now := c.now()
	if err := c.checkClock(now); err != nil {
		return nil, err
	}
	s, err := c.reading(ctx, req.Session)
	if err != nil {
		return nil, err
	}
	defer s.mu.RUnlock()

	reply, err := c.releaseFrom(ctx, s, who, exporter, req, now)
	if err != nil {
		c.noteRefusal(ctx, s, req, err)
	}
	return reply, err
}

// releaseFrom is Release from a session, under s.mu held for reading.
func (c *CAS) releaseFrom(ctx context.Context, s *sessionState, who Caller, exporter [32]byte, req *wire.ReleaseRequest, now time.Time) (*wire.ReleaseReply, error) {
	sp, ok := s.plan.services[req.Service]
	if !ok {
		return nil, problem.New(problem.NotFound, problem.RuleServiceUnknown, "session %q has no service %q", req.Session, req.Service).
			Fix("check the instance's config id, or add the service to the session")
	}
	g, err := c.grantOf(s, req, now)
	if err != nil {
		return nil, err
	}

	claims, err := c.attest(sp, who, exporter, req, now)
	if err != nil {
		return nil, err
	}
	if sp.attested {
		if err := c.platforms.admit(ctx, c.journal, claims, who); err != nil {
			return nil, err
		}
	}
	return c.admit(ctx, request{who: who, version: req.Version, returning: req.Returning, plan: sp, grant: g, claims: claims}, s, now)
}

// request is one release on its way: who asks for what, and what was found out.
type request struct {
	who       Caller
	version   int
	returning bool
	plan      *servicePlan
	grant     *grant // nil: the session asks for none
	claims    evidence.Claims
}

func checkNames(req *wire.ReleaseRequest) error {
	if name, err := ident.ParseSessionName(string(req.Session)); err != nil {
		return problem.New(problem.Invalid, problem.RuleSessionName, "%w", err)
	} else if name != req.Session {
		return problem.New(problem.Invalid, problem.RuleSessionName, "%q", req.Session).Want("%q", name)
	}
	if _, err := ident.ParseServiceName(string(req.Service)); err != nil {
		return problem.New(problem.Invalid, ruleServiceName, "%w", err)
	}
	if req.OTP != "" {
		return problem.New(problem.Invalid, ruleOtp, "the request carries a one-time password").
			Fix("leave it out of the config id: this CAS's sessions have none")
	}
	return nil
}

// attest verifies and appraises the evidence.
func (c *CAS) attest(sp *servicePlan, who Caller, exporter [32]byte, req *wire.ReleaseRequest, now time.Time) (evidence.Claims, error) {
	if !sp.attested {
		if !c.unsafe {
			return evidence.Claims{}, problem.New(problem.Denied, ruleModeNone, "the session says `mode: none`").
				Fix("update the session, or start the CAS with --allow-unattested")
		}
		return evidence.Claims{}, nil
	}
	claims, err := c.verifier.Verify(req.Evidence, now)
	if err != nil {
		return evidence.Claims{}, fmt.Errorf("verify evidence: %w", err)
	}
	data := wire.ReportData(exporter, who.Key)
	binding := wire.LaunchBinding(c.identity.hash, req.Session, req.Service)
	policy := sp.policy
	policy.ReportData, policy.LaunchBinding = &data, &binding
	decision, err := appraise.Appraise(policy, claims)
	if err != nil {
		return evidence.Claims{}, fmt.Errorf("appraise: %w", err)
	}
	if err := decision.Err(); err != nil {
		c.log.Info("release refused", "session", req.Session, "service", req.Service, "request_id", who.Request,
			"measurement", claims.Measurement, "error", err)
		return evidence.Claims{}, err
	}
	return claims, nil
}

// admit makes the instance, under s.mu held for reading.
func (c *CAS) admit(ctx context.Context, req request, s *sessionState, now time.Time) (*wire.ReleaseReply, error) {
	fresh := &instance{id: req.who.Key, session: s, grant: req.grant}
	fresh.mu.Lock()
	defer fresh.mu.Unlock()

	if v, exists := c.instances.LoadOrStore(req.who.Key, fresh); exists {
		return c.again(ctx, req, s, v.(*instance), now)
	}

	reply, err := c.firstRelease(ctx, fresh, req, now)
	if err != nil {
		c.instances.Delete(req.who.Key)
		return nil, err
	}
	return reply, nil
}

// firstRelease is release for an instance that has no row. One that had an answer
// before runs what was released then: a fresh row would say that it runs the newest
// session and the newest volumes.
func (c *CAS) firstRelease(ctx context.Context, in *instance, req request, now time.Time) (*wire.ReleaseReply, error) {
	if req.returning {
		return nil, instanceUnknown("no instance has the key %s any more", in.id.Short())
	}
	return c.release(ctx, in, req, now)
}

func instanceUnknown(format string, args ...any) *problem.Error {
	return problem.New(problem.Unauthenticated, problem.RuleInstanceUnknown, format, args...).
		Fix("start the instance again: it is attested under a new key")
}

// again answers an instance that lost its reply, renews what it has, or takes it
// back after a silence: in any case it has one place and one row.
func (c *CAS) again(ctx context.Context, req request, s *sessionState, in *instance, now time.Time) (*wire.ReleaseReply, error) {
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
		reply, due, err := c.answer(ctx, in, req.plan, nil, now)
		if err != nil {
			return nil, err
		}
		if err := c.renewed(ctx, in, req.who, due); err != nil {
			return nil, err
		}
		in.reply = reply
	}

	in.touch(now)
	reply := *in.reply
	reply.Version, reply.Head = req.version, c.Head()
	return &reply, nil
}

// release commits the instance and makes its answer, with in locked.
func (c *CAS) release(ctx context.Context, in *instance, req request, now time.Time) (*wire.ReleaseReply, error) {
	s, service := in.session, req.plan.service.Name

	if err := c.takePlace(in, service); err != nil {
		return nil, err
	}
	committed := false
	defer func() {
		if !committed {
			in.rec = instanceRecord{}
			in.grant.free(in.id)
		}
	}()

	vols, err := c.mountVolumes(ctx, s, in.id, req)
	if err != nil {
		return nil, err
	}
	defer func() { vols.done(committed) }()

	rec := instanceRecord{
		Session:     s.name,
		Service:     service,
		SessionHash: s.plan.hash,
		Grant:       in.grant.name(),
		Claims:      req.claims,
		State:       owners.Running,
		Released:    now.UTC(),
		Volumes:     vols.mounts,
	}
	in.rec = rec
	reply, due, err := c.answer(ctx, in, req.plan, vols.keys, now)
	if err != nil {
		return nil, err
	}
	rec.Due = due
	row, err := in.put(rec)
	if err != nil {
		return nil, err
	}
	in.rec = rec

	detail := map[string]string{"service": string(service), "measurement": req.claims.Measurement.String()}
	if in.grant != nil {
		detail["grant"] = rec.Grant.String()
	}
	head, err := c.journal.Commit(ctx, journal.Change{
		Event:   owners.EventInstanceStarted,
		Actor:   req.who.Key,
		Request: req.who.Request,
		Session: s.name,
		Detail:  detail,
		Rows:    append([]journal.Write{row}, vols.writes...),
	})
	if err != nil {
		return nil, err
	}
	committed = true

	reply.Version, reply.Head = req.version, head
	in.reply = reply
	in.touch(now)
	c.setLive(in, true)
	s.join(in)
	return reply, nil
}

// renewed commits that an instance has other certificates than before, with in
// locked. One that has none, and had none, changes nothing; one that had some is
// no longer told to renew them.
func (c *CAS) renewed(ctx context.Context, in *instance, who Caller, due time.Time) error {
	if due.IsZero() && in.rec.Due.IsZero() {
		return nil
	}
	rec := in.rec
	rec.Due, rec.Renewed = due, c.now().UTC()
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
	rec.State, rec.Ended, rec.Claims = owners.Running, time.Time{}, req.claims
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

// answer makes the reply for in, without a head, and says when a certificate in
// it is due; zero: it has none. keys are the volumes' keys; nil: they are read.
func (c *CAS) answer(ctx context.Context, in *instance, sp *servicePlan, keys map[string]volumeKeys, now time.Time) (*wire.ReleaseReply, time.Time, error) {
	fail := func(err error) (*wire.ReleaseReply, time.Time, error) { return nil, time.Time{}, err }
	cfg, err := c.configOf(ctx, in.session, sp, now)
	if err != nil {
		return fail(err)
	}
	own, err := cfg.IssueFor(in.session.name, sp.service.Name, in.id, now)
	if err != nil {
		return fail(err)
	}
	reply, err := cfg.Reply(own)
	if err != nil {
		return fail(err)
	}
	reply.InstanceID = in.id
	reply.KeepAliveSeconds = in.pace.tell(c.period())
	reply.Job = in.grant.job(sp.service.Name)
	reply.StopSignal, reply.OnRenewal = sp.service.StopSignal, sp.service.OnRenewal
	reply.OfflineSeconds = int(sp.service.Offline / time.Second)
	ends, due, err := cfg.Validity(now)
	if err != nil {
		return fail(err)
	}
	if !ends.IsZero() && (cfg.Fixed() || reply.OnRenewal == "") {
		reply.CertificateUntil = ends.Unix()
	}
	for _, g := range in.rec.Volumes {
		key := keys[g.Name]
		if keys == nil {
			v := in.session.volume(g.Name)
			v.mu.Lock()
			err := v.load(ctx, c.journal)
			key = v.rec.keys(g) // none after a reset: a renewal needs none
			v.mu.Unlock()
			if err != nil {
				return fail(err)
			}
		} else if len(key.key) == 0 {
			return fail(errors.New("a volume has no key"))
		}
		reply.Volumes = append(reply.Volumes, wire.Volume{
			Name:       g.Name,
			ID:         g.ID,
			Path:       g.Path,
			Key:        bytes.Clone(key.key), // the answer is on its way when a reset clears them
			NextKey:    bytes.Clone(key.next),
			Generation: g.Generation,
			Tag:        g.Tag,
			Access:     g.Access,
			Lease:      g.Lease,
		})
	}
	return reply, due, nil
}

// configOf returns the service's filled-in configuration, made on its first
// release and when a certificate in it is due.
func (c *CAS) configOf(ctx context.Context, s *sessionState, sp *servicePlan, now time.Time) (*secrets.Config, error) {
	if cfg := sp.ready.Load(); cfg != nil && cfg.Current(now) {
		return cfg, nil
	}

	shared, due, err := c.secretsOf(ctx, s, sp.shared)
	if err != nil {
		return nil, err
	}
	cfg, err := secrets.Configure(secrets.Service{
		Service: sp.service,
		Files:   sp.files,
		Secrets: s.plan.secrets,
		Shared:  sp.shared,
		Fresh:   sp.fresh,
	}, shared, due)
	if err != nil {
		return nil, err
	}
	sp.ready.Store(cfg)
	return cfg, nil
}
