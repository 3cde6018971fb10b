package cas

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
	"cupel.dev/cupel/internal/trusted/session"
)

// rotationRecord is the row of a session's rotations: when each was asked for.
type rotationRecord struct {
	Secrets map[string]time.Time `json:"secrets,omitempty"`
	Volumes map[string]time.Time `json:"volumes,omitempty"`
	// Pending are the secrets of which no release made a fresh value yet.
	Pending map[string]bool `json:"pending,omitempty"`
}

func rotationRow(name ident.SessionName) journal.RowID {
	return "rotation/" + journal.RowID(name)
}

// rotations reads the session's, under s.mu: those of what its current version has.
func (c *CAS) rotations(ctx context.Context, s *sessionState) (rotationRecord, error) {
	rec := rotationRecord{Secrets: map[string]time.Time{}, Volumes: map[string]time.Time{}, Pending: map[string]bool{}}
	plain, err := c.journal.Read(ctx, rotationRow(s.name))
	if err != nil || plain == nil {
		return rec, err
	}
	if err := json.Unmarshal(plain, &rec); err != nil {
		return rec, fmt.Errorf("read rotations: %w", err)
	}

	for name := range rec.Secrets {
		if _, ok := s.plan.secrets[name]; !ok {
			delete(rec.Secrets, name)
		}
	}
	for name := range rec.Volumes {
		if !s.plan.hasVolume(name) {
			delete(rec.Volumes, name)
		}
	}
	return rec, nil
}

// usedSecrets are those that some service's release resolves: what it refers to, and
// what that is issued by or has its key from.
func (p *plan) usedSecrets() map[string]bool {
	used := map[string]bool{}
	var use func(name string)
	use = func(name string) {
		if name == "" || used[name] {
			return
		}
		used[name] = true
		use(p.secrets[name].Issuer)
		use(p.secrets[name].PrivateKey)
	}
	for _, sp := range p.services {
		for _, name := range sp.shared {
			use(name)
		}
	}
	return used
}

// hasVolume reports whether the session has a volume of that name.
func (p *plan) hasVolume(name string) bool {
	return slices.ContainsFunc(p.session.Volumes, func(v session.Volume) bool { return v.Name == name })
}

// putRotations makes the row, under s.mu and s.secretMu, or s.mu held for writing. The
// value of a secret that was to be made afresh, and that the session no longer has,
// goes: it must not come back with a later version.
func (s *sessionState) putRotations(rec rotationRecord) ([]journal.Write, error) {
	var rows []journal.Write
	for name := range rec.Pending {
		if _, ok := s.plan.secrets[name]; !ok {
			delete(rec.Pending, name)
			delete(s.secrets, name)
			rows = append(rows, journal.Write{ID: s.secretRow(name)})
		}
	}

	plain, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("marshal rotations: %w", err)
	}
	return append(rows, journal.Write{ID: rotationRow(s.name), Plain: plain}), nil
}

// loadPending reads once what is to be made afresh, under s.mu and s.secretMu.
func (c *CAS) loadPending(ctx context.Context, s *sessionState) error {
	if s.pending != nil {
		return nil
	}

	rec, err := c.rotations(ctx, s)
	if err == nil {
		s.pending = rec.Pending
	}
	return err
}

// noLongerPending makes the row by which fresh values have been made, under s.mu and
// s.secretMu; none where none of them was waited for.
func (c *CAS) noLongerPending(ctx context.Context, s *sessionState, made []secrets.Made) ([]journal.Write, error) {
	waited := false
	for _, m := range made {
		waited = waited || s.pending[m.Name]
	}
	if !waited {
		return nil, nil
	}

	rec, err := c.rotations(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, m := range made {
		delete(rec.Pending, m.Name)
	}
	return s.putRotations(rec)
}

// Rotate has the next release make fresh values of generated secrets, and the next
// commit of a volume seal under a fresh key. What running instances have they keep: the
// answer names them.
func (c *CAS) Rotate(ctx context.Context, who Caller, req owners.Rotate) (owners.Rotations, error) {
	out, err := c.rotate(ctx, who, req)
	return out, chained(err, "Failed to rotate secrets of session '%s'", req.Session)
}

func (c *CAS) rotate(ctx context.Context, who Caller, req owners.Rotate) (owners.Rotations, error) {
	if err := checkAPIVersion(req.Version); err != nil {
		return owners.Rotations{}, err
	}
	s, err := c.updating(ctx, who, req.Session)
	if err != nil {
		return owners.Rotations{}, err
	}
	defer s.mu.Unlock()

	if len(req.Secrets)+len(req.Volumes) == 0 {
		return owners.Rotations{}, problem.New(problem.Invalid, ruleRotateNothing, "neither a secret nor a volume is named").
			Fix("name what to rotate: cupel session rotate %s SECRET…, or --volume VOLUME", s.name)
	}

	secrets, err := s.rotatable(req.Secrets)
	if err != nil {
		return owners.Rotations{}, err
	}

	volumes := slices.Compact(slices.Sorted(slices.Values(req.Volumes)))
	if err := c.commitRotation(ctx, who, s, secrets, volumes); err != nil {
		return owners.Rotations{}, err
	}
	return c.describeRotations(ctx, s)
}

// rotatable checks the named secrets and adds what goes with them: the key of a
// CA, unless its owner gave it, with the CA, which is never changed unless it is
// named itself.
func (s *sessionState) rotatable(names []string) ([]string, error) {
	keyOfCA := map[string]string{}
	for _, sec := range s.plan.secrets {
		if sec.Kind == session.X509CA && sec.PrivateKey != "" {
			keyOfCA[sec.PrivateKey] = sec.Name
		}
	}

	out := map[string]bool{}
	for _, name := range names {
		sec, ok := s.plan.secrets[name]
		ca := keyOfCA[name]
		switch {
		case !ok:
			return nil, problem.New(problem.NotFound, secrets.RuleSecretUnknown, "session %q has no secret %.140q", s.name, name).
				Fix("look at the session: cupel session read %s", s.name)
		case sec.HasValue:
			return nil, problem.New(problem.Invalid, ruleSecretGiven, "the value of secret %s was given, not generated", name).
				Want("a secret that the CAS generates").
				Fix("update the session with another value: cupel session create --update")
		case secrets.PerInstance(sec):
			return nil, problem.New(problem.Invalid, ruleSecretEach, "every instance has a certificate %s of its own", name).
				Want("a secret that instances share").
				Fix("replace the instances, or rotate its issuer %s", sec.Issuer)
		case ca != "" && !slices.Contains(names, ca):
			return nil, problem.New(problem.Invalid, ruleRotateCA, "%s is the key of the certificate authority %s, which users have pinned", name, ca).
				Want("the authority itself to be named").
				Fix("name %s, if users are to get another one; its key goes with it", ca)
		}

		out[name] = true
		if sec.Kind == session.X509CA && !s.plan.secrets[sec.PrivateKey].HasValue {
			out[sec.PrivateKey] = true
		}
	}
	return slices.Sorted(maps.Keys(out)), nil
}

// commitRotation writes what is rotated, under s.mu held for writing.
func (c *CAS) commitRotation(ctx context.Context, who Caller, s *sessionState, secrets, volumes []string) error {
	rec, err := c.rotations(ctx, s)
	if err != nil {
		return err
	}

	now := c.now().UTC()
	var rows []journal.Write

	used := s.plan.usedSecrets()
	for _, name := range secrets {
		rec.Secrets[name], rec.Pending[name] = now, used[name]
		if !used[name] { // no release will make it
			delete(rec.Pending, name)
			if row := s.secretRow(name); c.journal.Has(row) {
				rows = append(rows, journal.Write{ID: row})
			}
		}
	}

	next := map[*volume]volumeRecord{}
	for _, name := range volumes {
		v, vrec, row, err := c.rekeyed(ctx, s, name)
		if err != nil {
			return err
		}
		rec.Volumes[name] = now
		next[v] = vrec
		rows = append(rows, row)
	}

	put, err := s.putRotations(rec)
	if err != nil {
		return err
	}

	_, err = c.journal.Commit(ctx, journal.Change{
		Event:   owners.EventRotated,
		Actor:   who.Key,
		Request: who.Request,
		Session: s.name,
		Detail:  map[string]string{"secrets": fmt.Sprint(secrets), "volumes": fmt.Sprint(volumes)},
		Rows:    append(rows, put...),
	})
	if err != nil {
		return err
	}

	s.secretMu.Lock()
	s.pending = rec.Pending
	for _, name := range secrets {
		if !used[name] {
			delete(s.secrets, name)
		}
	}
	s.secretMu.Unlock()

	for _, sp := range s.plan.services {
		sp.ready.Store(nil)
	}
	for v, vrec := range next {
		v.rec = vrec
	}
	return nil
}

// rekeyed is a volume's row with a fresh key for the next commit, under s.mu held
// for writing, which keeps everybody else from the volume.
func (c *CAS) rekeyed(ctx context.Context, s *sessionState, name string) (*volume, volumeRecord, journal.Write, error) {
	fail := func(err error) (*volume, volumeRecord, journal.Write, error) {
		return nil, volumeRecord{}, journal.Write{}, err
	}
	if !s.plan.hasVolume(name) {
		return fail(problem.New(problem.NotFound, problem.RuleVolumeUnknown, "session %q has no volume %.140q", s.name, name).
			Fix("look at the session: cupel session read %s", s.name))
	}

	v := s.volume(name)
	if err := v.load(ctx, c.journal); err != nil {
		return fail(err)
	}
	if v.rec.ID.IsZero() {
		return fail(problem.New(problem.Conflict, ruleVolumeUnused, "volume %s has no key yet: nothing used it", name).
			Fix("there is nothing to rotate"))
	}

	rec := v.rec
	if len(rec.NextKey) == 0 { // else some instance may have it already, and commit under it
		key, err := secrets.Random(len(rec.Key))
		if err != nil {
			return fail(err)
		}
		rec.NextKey = key
	}
	row, err := v.put(rec)
	if err != nil {
		return fail(err)
	}
	return v, rec, row, nil
}

// Rotations lists what of a session was rotated, for those who may update it.
func (c *CAS) Rotations(ctx context.Context, who Caller, name ident.SessionName) (owners.Rotations, error) {
	s, err := c.reading(ctx, name)
	if err != nil {
		return owners.Rotations{}, chained(err, "Failed to list the rotations of session '%s'", name)
	}
	defer s.mu.RUnlock()

	if !s.may(who, session.OpUpdate) && s.mayRead(who) != nil {
		err := denied("read", string(s.name), "You have insufficient rights to access session %s", s.name)
		return owners.Rotations{}, chained(err, "Failed to list the rotations of session '%s'", name)
	}
	return c.describeRotations(ctx, s)
}

// describeRotations says who has what was before, under s.mu.
func (c *CAS) describeRotations(ctx context.Context, s *sessionState) (owners.Rotations, error) {
	rec, err := c.rotations(ctx, s)
	if err != nil {
		return owners.Rotations{}, err
	}
	out := owners.Rotations{Version: owners.Version, Secrets: []owners.Rotation{}, Volumes: []owners.Rotation{}}

	for _, name := range slices.Sorted(maps.Keys(rec.Secrets)) {
		at := rec.Secrets[name]
		out.Secrets = append(out.Secrets, owners.Rotation{
			Name:    name,
			Rotated: at,
			Pending: rec.Pending[name] || !c.journal.Has(s.secretRow(name)),
			Old:     s.running(func(in *instance) bool { return s.hasOld(in, name, at) }),
		})
	}

	for _, name := range slices.Sorted(maps.Keys(rec.Volumes)) {
		at, v := rec.Volumes[name], s.volume(name)
		v.mu.Lock()
		err := v.load(ctx, c.journal)
		pending := len(v.rec.NextKey) > 0
		v.mu.Unlock()
		if err != nil {
			return owners.Rotations{}, err
		}

		out.Volumes = append(out.Volumes, owners.Rotation{
			Name:    name,
			Rotated: at,
			Pending: pending,
			Old: s.running(func(in *instance) bool {
				return in.rec.Released.Before(at) && slices.ContainsFunc(in.rec.Volumes, func(m mounted) bool { return m.Name == name })
			}),
		})
	}
	return out, nil
}

// hasOld reports whether a running instance has a secret's value from before, under
// s.mu and in.mu. Renewed certificates, and their keys, take the place of those that
// it had, where the session says that the app takes them.
func (s *sessionState) hasOld(in *instance, name string, rotated time.Time) bool {
	if in.rec.SessionHash != s.current.Hash { // what its version gave it isn't known here: it may have it
		return in.rec.Released.Before(rotated)
	}

	sp := s.plan.services[in.rec.Service]
	if sp == nil || !slices.Contains(sp.shared, name) {
		return false
	}

	since := in.rec.Released
	if sp.service.OnRenewal != "" && sp.renews(s.plan, name) && in.rec.Renewed.After(since) {
		since = in.rec.Renewed
	}
	return since.Before(rotated)
}

// renews reports whether a renewal replaces all that the service has of a secret:
// certificates and their keys in files, and neither what stands in its command or
// environment, nor other files.
func (sp *servicePlan) renews(p *plan, name string) bool {
	switch p.secrets[name].Kind {
	case session.X509, session.X509CA, session.PrivateKey:
	default:
		return false
	}

	has := func(t session.Text) bool {
		return slices.ContainsFunc(t, func(part session.Part) bool {
			if part.Ref == nil {
				return false
			}
			sec := p.secrets[part.Ref.Secret]
			return sec.Name == name || sec.Issuer == name || sec.PrivateKey == name
		})
	}

	for _, t := range sp.service.Command {
		if has(t) {
			return false
		}
	}
	for _, e := range sp.service.Environment {
		if has(e.Value) {
			return false
		}
	}
	return !slices.ContainsFunc(sp.files, func(f session.InjectionFile) bool { return has(f.Content) && !secrets.Certified(p.secrets, f.Content) })
}

// running returns the ids of the instances with rights for which f holds.
func (s *sessionState) running(f func(*instance) bool) []ident.InstanceID {
	var out []ident.InstanceID
	for _, in := range s.all() {
		in.mu.Lock()
		if in.rec.State == owners.Running && f(in) {
			out = append(out, in.id)
		}
		in.mu.Unlock()
	}
	sortIDs(out)
	return out
}
