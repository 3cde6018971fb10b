package cas

import (
	"bytes"
	"context"
	"errors"
	"time"

	"cupel.dev/cupel/internal/trusted/cas/secrets"
	"cupel.dev/cupel/internal/trusted/wire"
)

// answer makes the reply for in, without a head, and says when a certificate in
// it is due; zero: it has none. keys are the volumes' keys; nil: they are read.
func (c *CAS) answer(ctx context.Context, in *instance, sp *servicePlan, keys map[string]volumeKeys, now time.Time) (*wire.ReleaseReply, time.Time, error) {
	fail := func(err error) (*wire.ReleaseReply, time.Time, error) { return nil, time.Time{}, err }

	// What the session gives: argv, environment and files, own certificates included.
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

	// How it is to live with it.
	reply.InstanceID = in.id
	reply.KeepAliveSeconds = in.pace.tell(c.period())
	reply.Job = in.grant.job(sp.service.Name)
	reply.StopSignal = sp.service.StopSignal
	reply.OnRenewal = sp.service.OnRenewal
	reply.OfflineSeconds = int(sp.service.Offline / time.Second)
	ends, due, err := cfg.Validity(now)
	if err != nil {
		return fail(err)
	}
	if !ends.IsZero() && (cfg.Fixed() || reply.OnRenewal == "") {
		reply.CertificateUntil = ends.Unix()
	}

	if reply.Volumes, err = c.answerVolumes(ctx, in, keys); err != nil {
		return fail(err)
	}
	return reply, due, nil
}

// answerVolumes are the volumes of in's answer, with keys or, where they are nil,
// those that the rows have.
func (c *CAS) answerVolumes(ctx context.Context, in *instance, keys map[string]volumeKeys) ([]wire.Volume, error) {
	var out []wire.Volume
	for _, g := range in.rec.Volumes {
		key := keys[g.Name]
		if keys == nil {
			v := in.session.volume(g.Name)
			v.mu.Lock()
			err := v.load(ctx, c.journal)
			key = v.rec.keys(g) // none after a reset: a renewal needs none
			v.mu.Unlock()
			if err != nil {
				return nil, err
			}
		} else if len(key.key) == 0 {
			return nil, errors.New("a volume has no key")
		}

		out = append(out, wire.Volume{
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
	return out, nil
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
