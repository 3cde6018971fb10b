package cas

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/journal"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/verify/appraise"
)

// plan is one version of a session, made ready for releases. Immutable but for
// what its services memoise.
type plan struct {
	session  *session.Session
	hash     ident.Digest
	text     string
	services map[ident.ServiceName]*servicePlan
	secrets  map[string]session.Secret
}

// servicePlan is what a release needs to know about one service.
type servicePlan struct {
	service *session.Service
	policy  appraise.Policy // without ReportData and ConfigID, which differ by instance
	// attested is false for `mode: none`.
	attested bool
	mounts   []session.VolumeMount
	files    []session.InjectionFile
	shared   []string // secrets that the service refers to, the same for all instances
	fresh    []string // x509 secrets that it refers to, one for each instance
	ready    atomic.Pointer[config]
}

// compile parses a session's text and makes its plan. creator is who uploads it.
func compile(text []byte, creator ident.KeyHash) (*plan, error) {
	s, err := session.Parse(text)
	if err != nil {
		return nil, err
	}
	return planOf(s, text, creator)
}

// planOf makes the plan of a session that was parsed from text.
func planOf(s *session.Session, text []byte, creator ident.KeyHash) (*plan, error) {
	p := &plan{
		session:  s,
		hash:     s.Hash(creator),
		text:     string(text),
		services: make(map[ident.ServiceName]*servicePlan, len(s.Services)),
		secrets:  make(map[string]session.Secret, len(s.Secrets)),
	}
	for _, sec := range s.Secrets {
		p.secrets[sec.Name] = sec
		if sec.HasValue {
			if _, err := given(sec); err != nil {
				return nil, err
			}
		}
	}
	for i := range s.Services {
		sp, err := p.compileService(&s.Services[i])
		if err != nil {
			return nil, err
		}
		p.services[sp.service.Name] = sp
	}
	return p, nil
}

func (p *plan) compileService(svc *session.Service) (*servicePlan, error) {
	sp := &servicePlan{service: svc, attested: p.session.Security.Mode != "none"}
	sp.policy = p.session.Policy(svc)
	texts := slices.Clone(svc.Command)
	for _, e := range svc.Environment {
		texts = append(texts, e.Value)
	}
	for _, img := range p.session.Images {
		if img.Name != svc.ImageName {
			continue
		}
		sp.mounts, sp.files = img.Volumes, img.InjectionFiles
		for _, f := range img.InjectionFiles {
			texts = append(texts, f.Content)
		}
	}
	for _, t := range texts {
		for _, part := range t {
			if part.Ref == nil {
				continue
			}
			sec, ok := p.secrets[part.Ref.Secret]
			if !ok {
				return nil, problem.New(problem.Invalid, ruleSecretUnknown, "service %s refers to secret %q", svc.Name, part.Ref.Secret).
					Fix("define it under secrets")
			}
			if perInstance(sec) {
				sp.fresh = append(sp.fresh, sec.Name)
			} else {
				sp.shared = append(sp.shared, sec.Name)
			}
		}
	}
	slices.Sort(sp.fresh)
	sp.fresh = slices.Compact(sp.fresh)
	for _, name := range sp.fresh {
		if issuer := p.secrets[name].Issuer; issuer != "" {
			sp.shared = append(sp.shared, issuer)
		}
	}
	slices.Sort(sp.shared)
	sp.shared = slices.Compact(sp.shared)
	return sp, nil
}

// stored is a generated secret as it is kept over versions.
type stored struct {
	fingerprint string
	material    *material
}

// secretsOf returns the named secrets' values for a release, generating what is
// missing, due, or to be fresh since a rotation. Values live as long as their
// session; they are durable before they are used. The earliest time at which a
// certificate is to be renewed comes with them.
func (c *CAS) secretsOf(ctx context.Context, s *sessionState, names []string) (map[string]*material, time.Time, error) {
	s.secretMu.Lock()
	defer s.secretMu.Unlock()
	if err := c.loadPending(ctx, s); err != nil {
		return nil, time.Time{}, err
	}
	return c.resolve(ctx, s, names, s.pending, false, Caller{})
}

// publishedOf returns the named secrets' values for whoever reads them: those that
// instances have, and others only from the release on that made them. What never was
// is made; nothing is renewed.
func (c *CAS) publishedOf(ctx context.Context, s *sessionState, names []string, who Caller) (map[string]*material, error) {
	s.secretMu.Lock()
	defer s.secretMu.Unlock()
	got, _, err := c.resolve(ctx, s, names, nil, true, who)
	return got, err
}

// resolve works out secrets, all of pending afresh, under s.secretMu.
func (c *CAS) resolve(ctx context.Context, s *sessionState, names []string, pending map[string]bool, reading bool, who Caller) (map[string]*material, time.Time, error) {
	r := &resolver{c: c, ctx: ctx, s: s, p: s.plan, now: c.now(), pending: pending, reading: reading, got: map[string]*material{}}
	for _, name := range names {
		if _, err := r.resolve(name, 0); err != nil {
			return nil, time.Time{}, err
		}
	}
	if len(r.writes) > 0 {
		rows, err := c.noLongerPending(ctx, s, r.made)
		if err != nil {
			return nil, time.Time{}, err
		}
		_, err = c.journal.Commit(ctx, journal.Change{Event: owners.EventSecretGenerated, Actor: who.Key, Request: who.Request, Session: s.name, Rows: append(r.writes, rows...)})
		if err != nil {
			return nil, time.Time{}, err
		}
		for name, st := range r.made {
			s.secrets[name] = st
			delete(s.pending, name)
		}
	}
	return r.got, r.renew, nil
}

// resolver works out secrets and what they depend on, under s.secretMu.
type resolver struct {
	c       *CAS
	ctx     context.Context //nolint:containedctx // lives for one call
	s       *sessionState
	p       *plan
	now     time.Time
	pending map[string]bool // not to be taken from what is kept
	reading bool            // certificates stay, due or not
	got     map[string]*material
	made    map[string]stored
	writes  []journal.Write
	renew   time.Time
}

func (r *resolver) resolve(name string, depth int) (*material, error) {
	if m, ok := r.got[name]; ok {
		return m, nil
	}
	sec, ok := r.p.secrets[name]
	if !ok || depth > 8 {
		return nil, problem.New(problem.Invalid, ruleSecretUnknown, "secret %q is not defined, or its issuers go round in a circle", name)
	}
	m, err := r.make(sec, depth)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	if m.cert != nil && !sec.HasValue && sec.Kind != session.X509CA {
		r.renew = earliest(r.renew, renewAt(m.cert))
	}
	r.got[name] = m
	return m, nil
}

func (r *resolver) make(sec session.Secret, depth int) (*material, error) {
	key, issuer, err := r.dependencies(sec, depth)
	if err != nil {
		return nil, err
	}
	if sec.HasValue {
		m, err := given(sec)
		if err != nil {
			return nil, err
		}
		if key != nil {
			m.key = key.key
		}
		return m, nil
	}
	print := fingerprint(sec)
	if issuer != nil {
		print += " by " + ident.Sum(issuer.cert.Raw).String()
	}
	if key != nil {
		print += " for " + ident.Sum(key.bytes).String()
	}
	m, err := r.load(sec, print)
	if err != nil {
		return nil, err
	}
	if m != nil && m.cert != nil && !r.reading {
		again, err := due(sec, m.cert, r.now)
		if err != nil {
			return nil, err
		}
		if again {
			m = nil
		}
	}
	if m != nil {
		if key != nil {
			m.key = key.key
		}
		return m, nil
	}
	return r.generate(sec, key, issuer, print)
}

func (r *resolver) dependencies(sec session.Secret, depth int) (key, issuer *material, err error) {
	if sec.Kind != session.X509 && sec.Kind != session.X509CA {
		return nil, nil, nil
	}
	if sec.PrivateKey != "" {
		if key, err = r.resolve(sec.PrivateKey, depth+1); err != nil {
			return nil, nil, err
		}
		if key.key == nil {
			return nil, nil, problem.New(problem.Invalid, ruleSecretKind, "%s is not a private key", sec.PrivateKey)
		}
	}
	if sec.Issuer != "" && !sec.HasValue {
		if issuer, err = r.resolve(sec.Issuer, depth+1); err != nil {
			return nil, nil, err
		}
		if issuer.cert == nil || issuer.key == nil {
			return nil, nil, problem.New(problem.Invalid, ruleSecretKind, "%s can't issue: it has no certificate with a key", sec.Issuer)
		}
	}
	return key, issuer, nil
}

// load returns the kept value if it was generated the same way.
func (r *resolver) load(sec session.Secret, print string) (*material, error) {
	if r.pending[sec.Name] {
		return nil, nil
	}
	if st, ok := r.s.secrets[sec.Name]; ok {
		if st.fingerprint == print {
			return st.material, nil
		}
		return nil, nil
	}
	plain, err := r.c.journal.Read(r.ctx, r.s.secretRow(sec.Name))
	if err != nil || plain == nil {
		return nil, err
	}
	var rec secretRecord
	if err := json.Unmarshal(plain, &rec); err != nil {
		return nil, fmt.Errorf("read generated value: %w", err)
	}
	if rec.Fingerprint != print {
		return nil, nil
	}
	m, err := restore(sec, rec)
	if err != nil {
		return nil, fmt.Errorf("read generated value: %w", err)
	}
	r.s.secrets[sec.Name] = stored{print, m}
	return m, nil
}

func (r *resolver) generate(sec session.Secret, key, issuer *material, print string) (*material, error) {
	m := &material{kind: sec.Kind}
	rec := secretRecord{Fingerprint: print}
	var err error
	switch sec.Kind {
	case session.ASCII:
		m.bytes, err = randomASCII(sizeOf(sec))
	case session.Binary:
		m.bytes, err = randomBytes(sizeOf(sec))
	case session.PrivateKey:
		m.key, m.bytes, err = generateKey(keyType(sec))
	case session.X509, session.X509CA:
		rec.Key, err = r.certify(sec, m, key, issuer)
		rec.Chain = m.chain
	default:
		err = problem.New(problem.Invalid, ruleSecretKind, "kind %q can't be generated", sec.Kind)
	}
	if err != nil {
		return nil, err
	}
	rec.Value = m.bytes
	plain, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("marshal generated value: %w", err)
	}
	r.writes = append(r.writes, journal.Write{ID: r.s.secretRow(sec.Name), Plain: plain})
	if r.made == nil {
		r.made = map[string]stored{}
	}
	r.made[sec.Name] = stored{print, m}
	return m, nil
}

// certify issues sec's certificate into m; where no private-key secret holds its
// key, a new one is made and returned.
func (r *resolver) certify(sec session.Secret, m *material, key, issuer *material) (ownKey []byte, err error) {
	if key != nil {
		m.key = key.key
	} else if m.key, ownKey, err = generateKey("P-256"); err != nil {
		return nil, err
	}
	t, err := certTemplate(sec, r.now)
	if err != nil {
		return nil, err
	}
	if issuer != nil && t.NotAfter.After(issuer.cert.NotAfter) {
		t.NotAfter = issuer.cert.NotAfter
	}
	der, chain, err := issue(t, m.key, issuer)
	if err != nil {
		return nil, err
	}
	if m.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	m.bytes, m.chain = der, chain
	return ownKey, nil
}
