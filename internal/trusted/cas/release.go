package cas

import (
	"context"
	"fmt"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/verify/appraise"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Release attests the caller and answers with what its session grants to its
// service: it checks the request, attests the caller, grants it a place and its
// volumes, and replies. exporter is the connection's channel binding. The same key may ask
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

	reply, err := c.releaseFrom(ctx, s, asked{ReleaseRequest: req, who: who, exporter: exporter, now: now})
	if err != nil {
		c.noteRefusal(ctx, s, req, err)
	}
	return reply, err
}

// asked is a release as it is asked for: by whom, over which connection, and when.
type asked struct {
	*wire.ReleaseRequest
	who      Caller
	exporter [32]byte
	now      time.Time
}

// request is a release on its way: what was asked for, and what was found out.
type request struct {
	asked
	plan   *servicePlan
	grant  *grant // nil: the session asks for none
	claims evidence.Claims
}

// releaseFrom is Release from a session, under s.mu held for reading.
func (c *CAS) releaseFrom(ctx context.Context, s *sessionState, ask asked) (*wire.ReleaseReply, error) {
	// Check: the session has the service, and the token lets it run.
	sp, ok := s.plan.services[ask.Service]
	if !ok {
		return nil, problem.New(problem.NotFound, problem.RuleServiceUnknown, "session %q has no service %q", ask.Session, ask.Service).
			Fix("check the instance's config id, or add the service to the session")
	}
	g, err := c.grantOf(s, ask.ReleaseRequest, ask.now)
	if err != nil {
		return nil, err
	}

	// Attest: what asks is what the session says.
	claims, err := c.attest(ctx, sp, ask)
	if err != nil {
		return nil, err
	}

	// Grant and reply.
	return c.admit(ctx, s, request{asked: ask, plan: sp, grant: g, claims: claims})
}

// checkNames holds the names in a request to their forms.
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

// attest verifies and appraises the evidence, which must be of this connection, this
// CAS, session and service, and rest on collateral no older than what was seen.
func (c *CAS) attest(ctx context.Context, sp *servicePlan, ask asked) (evidence.Claims, error) {
	if !sp.attested {
		if !c.unsafe {
			return evidence.Claims{}, problem.New(problem.Denied, ruleModeNone, "the session says `mode: none`").
				Fix("update the session, or start the CAS with --allow-unattested")
		}
		return evidence.Claims{}, nil
	}

	claims, err := c.verifier.Verify(ask.Evidence, ask.now)
	if err != nil {
		return evidence.Claims{}, fmt.Errorf("verify evidence: %w", err)
	}

	data := wire.ReportData(ask.exporter, ask.who.Key)
	binding := wire.LaunchBinding(c.identity.hash, ask.Session, ask.Service)
	policy := sp.policy
	policy.ReportData, policy.LaunchBinding = &data, &binding
	decision, err := appraise.Appraise(policy, claims)
	if err != nil {
		return evidence.Claims{}, fmt.Errorf("appraise: %w", err)
	}
	if err := decision.Err(); err != nil {
		c.log.Info("release refused", "session", ask.Session, "service", ask.Service, "request_id", ask.who.Request,
			"measurement", claims.Measurement, "error", err)
		return evidence.Claims{}, err
	}

	if err := c.platforms.admit(ctx, c.journal, claims, ask.who); err != nil {
		return evidence.Claims{}, err
	}
	return claims, nil
}

// admit makes the instance, or finds it where it asks again, under s.mu held for
// reading.
func (c *CAS) admit(ctx context.Context, s *sessionState, req request) (*wire.ReleaseReply, error) {
	fresh := &instance{id: req.who.Key, session: s, grant: req.grant}
	fresh.mu.Lock()
	defer fresh.mu.Unlock()

	if v, exists := c.instances.LoadOrStore(req.who.Key, fresh); exists {
		return c.again(ctx, s, v.(*instance), req)
	}

	reply, err := c.firstRelease(ctx, fresh, req)
	if err != nil {
		c.instances.Delete(req.who.Key)
		return nil, err
	}
	return reply, nil
}

// firstRelease is release for an instance that has no row. One that had an answer
// before runs what was released then: a fresh row would say that it runs the newest
// session and the newest volumes.
func (c *CAS) firstRelease(ctx context.Context, in *instance, req request) (*wire.ReleaseReply, error) {
	if req.Returning {
		return nil, instanceUnknown("no instance has the key %s any more", in.id.Short())
	}
	return c.release(ctx, in, req)
}

// instanceUnknown says that nothing is known of an instance.
func instanceUnknown(format string, args ...any) *problem.Error {
	return problem.New(problem.Unauthenticated, problem.RuleInstanceUnknown, format, args...).
		Fix("start the instance again: it is attested under a new key")
}

// release commits the instance and makes its answer, with in locked.
func (c *CAS) release(ctx context.Context, in *instance, req request) (*wire.ReleaseReply, error) {
	s := in.session
	service := req.plan.service.Name

	// Reserve: a place under the grant, and the volumes with their leases.
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

	// Prepare: the instance's row and its answer.
	rec := instanceRecord{
		Session:     s.name,
		Service:     service,
		SessionHash: s.plan.hash,
		Grant:       in.grant.name(),
		Claims:      req.claims,
		State:       owners.Running,
		Released:    req.now.UTC(),
		Volumes:     vols.mounts,
	}
	in.rec = rec
	reply, due, err := c.answer(ctx, in, req.plan, vols.keys, req.now)
	if err != nil {
		return nil, err
	}

	rec.Due = due
	row, err := in.put(rec)
	if err != nil {
		return nil, err
	}
	in.rec = rec

	// Commit.
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

	// Publish: it is durable, so that it may be known and answered.
	reply.Version, reply.Head = req.Version, head
	in.reply = reply
	in.touch(req.now)
	c.setLive(in, true)
	s.join(in)
	return reply, nil
}
