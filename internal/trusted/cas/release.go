package cas

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cupel.dev/cupel/internal/trusted/appraise"
	"cupel.dev/cupel/internal/trusted/attest"
	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/cas/audit"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/internal/trusted/release"
)

// Release attests the caller and answers with what its session grants to its
// service. exporter is the connection's channel binding. The same key may ask
// again for as long as its instance runs, for a lost answer: attested again, it
// gets no second instance, volume or lease.
func (c *CAS) Release(ctx context.Context, who Caller, exporter [32]byte, req *release.Request) (*release.Reply, error) {
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
	s, err := c.session(ctx, req.Session)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	sp, ok := s.plan.services[req.Service]
	if !ok {
		return nil, problem.New(problem.NotFound, "service_unknown", "session %q has no service %q", req.Session, req.Service).
			Fix("check the instance's config id, or add the service to the session")
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
	return c.grant(ctx, s, sp, who, claims, now)
}

func checkNames(req *release.Request) error {
	if name, err := ident.ParseSessionName(string(req.Session)); err != nil {
		return problem.New(problem.Invalid, "session_name", "%w", err)
	} else if name != req.Session {
		return problem.New(problem.Invalid, "session_name", "%q", req.Session).Want("%q", name)
	}
	if _, err := ident.ParseServiceName(string(req.Service)); err != nil {
		return problem.New(problem.Invalid, "service_name", "%w", err)
	}
	if req.OTP != "" {
		return problem.New(problem.Invalid, "otp", "the request carries a one-time password").
			Fix("leave it out of the config id: this CAS's sessions have none")
	}
	return nil
}

// attest verifies and appraises the evidence.
func (c *CAS) attest(sp *servicePlan, who Caller, exporter [32]byte, req *release.Request, now time.Time) (attest.Claims, error) {
	if !sp.attested {
		if !c.unsafe {
			return attest.Claims{}, problem.New(problem.Denied, "mode_none", "the session says `mode: none`").
				Fix("update the session, or start the CAS with --allow-unattested")
		}
		return attest.Claims{}, nil
	}
	claims, err := c.verifier.Verify(req.Evidence, now)
	if err != nil {
		return attest.Claims{}, fmt.Errorf("verify evidence: %w", err)
	}
	data := release.ReportData(exporter, who.Key)
	binding := release.LaunchBinding(c.identity.hash, req.Session, req.Service)
	policy := sp.policy
	policy.ReportData, policy.ConfigID = &data, &binding
	decision, err := appraise.Appraise(policy, claims)
	if err != nil {
		return attest.Claims{}, fmt.Errorf("appraise: %w", err)
	}
	if err := decision.Err(); err != nil {
		c.log.Info("release refused", "session", req.Session, "service", req.Service, "request_id", who.Request,
			"measurement", claims.Measurement, "error", err)
		return attest.Claims{}, err
	}
	return claims, nil
}

// grant makes the instance, under s.mu held for reading.
func (c *CAS) grant(ctx context.Context, s *sessionState, sp *servicePlan, who Caller, claims attest.Claims, now time.Time) (*release.Reply, error) {
	fresh := &instance{id: who.Key, session: s}
	fresh.mu.Lock()
	defer fresh.mu.Unlock()
	if v, exists := c.instances.LoadOrStore(who.Key, fresh); exists {
		return c.again(ctx, s, sp, v.(*instance), now)
	}
	reply, err := c.release(ctx, fresh, sp, who, claims, now)
	if err != nil {
		c.instances.Delete(who.Key)
		return nil, err
	}
	return reply, nil
}

// again answers an instance that lost its reply.
func (c *CAS) again(ctx context.Context, s *sessionState, sp *servicePlan, in *instance, now time.Time) (*release.Reply, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.rec.State == "": // its release failed while we waited
		return nil, problem.New(problem.Unavailable, "release_failed", "the first request of this instance failed").Fix("try again")
	case in.session != s || in.rec.Service != sp.service.Name:
		return nil, problem.New(problem.Conflict, "instance_key_used", "the key is that of an instance of %s/%s", in.session.name, in.rec.Service).
			Fix("make a fresh key for every instance")
	case in.rec.State != api.Running:
		return nil, in.ended()
	case in.reply == nil: // this CAS was restarted, or the instance has used its answer
		reply, err := c.answer(ctx, in, sp, nil, now)
		if err != nil {
			return nil, err
		}
		in.reply = reply
	}
	in.sign(now)
	reply := *in.reply
	reply.Head = c.Head()
	return &reply, nil
}

// release commits the instance and makes its answer, with in locked.
func (c *CAS) release(ctx context.Context, in *instance, sp *servicePlan, who Caller, claims attest.Claims, now time.Time) (*release.Reply, error) {
	s := in.session
	vols, err := c.grantVolumes(ctx, s, in.id, sp.mounts)
	if err != nil {
		return nil, err
	}
	committed := false
	defer func() { vols.done(committed) }()
	rec := instanceRecord{
		Session: s.name, Service: sp.service.Name, SessionHash: s.plan.hash, Claims: claims,
		State: api.Running, Released: now.UTC(), Volumes: vols.grants,
	}
	row, err := in.put(rec)
	if err != nil {
		return nil, err
	}
	in.rec = rec
	reply, err := c.answer(ctx, in, sp, vols.keys, now)
	if err != nil {
		in.rec = instanceRecord{}
		return nil, err
	}
	head, err := c.journal.commit(ctx, change{
		event: audit.InstanceStarted, actor: who.Key, request: who.Request, session: s.name,
		detail: map[string]string{"service": string(sp.service.Name), "measurement": claims.Measurement.String()},
		rows:   append([]write{row}, vols.writes...),
	})
	if err != nil {
		in.rec = instanceRecord{}
		return nil, err
	}
	committed = true
	reply.Head = head
	in.reply = reply
	in.sign(now)
	in.live.Store(true)
	s.join(in)
	return reply, nil
}

// answer makes the reply for in, without a head. keys are the volumes' keys;
// nil: they are read.
func (c *CAS) answer(ctx context.Context, in *instance, sp *servicePlan, keys map[string][]byte, now time.Time) (*release.Reply, error) {
	cfg, err := c.configOf(ctx, in.session, sp, now)
	if err != nil {
		return nil, err
	}
	own, err := cfg.issueFor(in.session.name, sp.service.Name, in.id, now)
	if err != nil {
		return nil, err
	}
	reply, err := cfg.reply(own)
	if err != nil {
		return nil, err
	}
	reply.InstanceID = in.id
	reply.KeepAliveSeconds = c.keepAliveSeconds()
	for _, g := range in.rec.Volumes {
		key := keys[g.Name]
		if keys == nil {
			v := in.session.volume(g.Name)
			v.mu.Lock()
			err := v.load(ctx, c.journal)
			key = v.rec.Key
			v.mu.Unlock()
			if err != nil {
				return nil, err
			}
		}
		if len(key) == 0 {
			return nil, errors.New("a volume has no key")
		}
		reply.Volumes = append(reply.Volumes, release.Volume{
			Name: g.Name, ID: g.ID, Path: g.Path, Key: key, Generation: g.Generation, Tag: g.Tag, Access: g.Access, Lease: g.Lease,
		})
	}
	return reply, nil
}

// configOf returns the service's filled-in configuration, made on its first
// release and when a certificate in it is due.
func (c *CAS) configOf(ctx context.Context, s *sessionState, sp *servicePlan, now time.Time) (*config, error) {
	if cfg := sp.ready.Load(); cfg != nil && (cfg.until.IsZero() || now.Before(cfg.until)) {
		return cfg, nil
	}
	shared, until, err := c.secretsOf(ctx, s, s.plan, sp.shared, Caller{})
	if err != nil {
		return nil, err
	}
	cfg, err := sp.configure(s.plan, shared, until)
	if err != nil {
		return nil, err
	}
	sp.ready.Store(cfg)
	return cfg, nil
}
