package cas

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/wire"
)

// config is a service's configuration with everything filled in that is the same
// for all its instances. Immutable.
type config struct {
	argv  []filled
	env   []filled // "NAME=" and the value
	cwd   string
	files []filledFile
	fresh []*issuance // in the order of servicePlan.fresh
	until time.Time   // when a shared certificate is due; zero: never
	// shared are the certificates that it refers to and that instances share.
	shared []*x509.Certificate
	// fixed says that a certificate stands in argv or environment, where nothing
	// can renew it while the app runs.
	fixed bool
}

type filledFile struct {
	path    string
	mode    uint32
	content filled
	// certificate says that it holds one, or its key: it is renewed.
	certificate bool
}

// filled is text with what is left open: references to certificates that differ
// by instance.
type filled []piece

type piece struct {
	text []byte
	ref  *session.Ref // nil: text
}

// issuance is how an instance's own certificate is made.
type issuance struct {
	secret session.Secret
	issuer *material // nil: self-signed
}

// issue makes the certificate and its key.
func (is *issuance) issue(uri string, now time.Time) (*material, error) {
	name, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("instance URI: %w", err)
	}
	key, _, err := generateKey("P-256")
	if err != nil {
		return nil, err
	}
	t, err := certTemplate(is.secret, now)
	if err != nil {
		return nil, err
	}
	t.URIs = []*url.URL{name}
	t.NotAfter = is.cap(t.NotAfter)
	der, chain, err := issue(t, key, is.issuer)
	if err != nil {
		return nil, err
	}
	return &material{kind: session.X509, bytes: der, key: key, chain: chain}, nil
}

// cap keeps a certificate from outliving its issuer.
func (is *issuance) cap(until time.Time) time.Time {
	if is.issuer != nil && until.After(is.issuer.cert.NotAfter) {
		return is.issuer.cert.NotAfter
	}
	return until
}

// validity is when the earliest of an instance's certificates ends, own ones
// issued at now, and when the first of them is due; zero: it has none.
func (cfg *config) validity(now time.Time) (ends, due time.Time, err error) {
	for _, is := range cfg.fresh {
		life, err := validFor(is.secret)
		if err != nil {
			return time.Time{}, time.Time{}, err
		}
		until := is.cap(now.Add(life))
		ends, due = earliest(ends, until), earliest(due, now.Add(until.Sub(now)/2))
	}
	for _, c := range cfg.shared {
		ends, due = earliest(ends, c.NotAfter), earliest(due, renewAt(c))
	}
	if ends.Sub(now) < minRenewal { // the issuer ends: asking again gains nothing
		return ends, time.Time{}, nil
	}
	return ends, due, nil
}

// minRenewal is the shortest rest of a certificate's life that is worth renewing.
const minRenewal = time.Minute

// earliest is the earlier of two times, of which a may be not set.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// certified reports whether a text refers to a certificate that is renewed, or to
// its key.
func (p *plan) certified(t session.Text) bool {
	return slices.ContainsFunc(t, func(part session.Part) bool {
		return part.Ref != nil && p.secrets[part.Ref.Secret].Kind == session.X509
	})
}

func fill(prefix string, t session.Text, shared map[string]*material) (filled, error) {
	out := filled{{text: []byte(prefix)}}
	for _, part := range t {
		last := &out[len(out)-1]
		if part.Ref == nil {
			last.text = append(last.text, part.Literal...)
			continue
		}
		m, ok := shared[part.Ref.Secret]
		if !ok {
			out = append(out, piece{ref: part.Ref}, piece{})
			continue
		}
		b, err := m.render(*part.Ref)
		if err != nil {
			return nil, fmt.Errorf("reference to secret %s: %w", part.Ref.Secret, err)
		}
		last.text = append(last.text, b...)
	}
	return out, nil
}

// with completes the text with an instance's own certificates.
func (f filled) with(own map[string]*material) ([]byte, error) {
	if len(f) == 1 {
		return f[0].text, nil
	}
	var out []byte
	for _, p := range f {
		if p.ref == nil {
			out = append(out, p.text...)
			continue
		}
		b, err := own[p.ref.Secret].render(*p.ref)
		if err != nil {
			return nil, fmt.Errorf("reference to secret %s: %w", p.ref.Secret, err)
		}
		out = append(out, b...)
	}
	return out, nil
}

// configure fills in what all instances of the service share.
func (sp *servicePlan) configure(p *plan, shared map[string]*material, until time.Time) (*config, error) {
	cfg := &config{cwd: sp.service.Pwd, until: until}
	for _, name := range sp.fresh {
		sec := p.secrets[name]
		cfg.fresh = append(cfg.fresh, &issuance{secret: sec, issuer: shared[sec.Issuer]})
	}
	for _, name := range sp.shared {
		if m := shared[name]; m.cert != nil && m.kind == session.X509 {
			cfg.shared = append(cfg.shared, m.cert)
		}
	}
	for _, t := range sp.service.Command {
		cfg.fixed = cfg.fixed || p.certified(t)
		f, err := fill("", t, shared)
		if err != nil {
			return nil, err
		}
		cfg.argv = append(cfg.argv, f)
	}
	for _, e := range sp.service.Environment {
		cfg.fixed = cfg.fixed || p.certified(e.Value)
		f, err := fill(e.Name+"=", e.Value, shared)
		if err != nil {
			return nil, err
		}
		cfg.env = append(cfg.env, f)
	}
	for _, file := range sp.files {
		f, err := fill("", file.Content, shared)
		if err != nil {
			return nil, err
		}
		cfg.files = append(cfg.files, filledFile{file.Path, file.Permission, f, p.certified(file.Content)})
	}
	return cfg, nil
}

// reply is the configuration for one instance.
func (cfg *config) reply(own map[string]*material) (*wire.ReleaseReply, error) {
	r := &wire.ReleaseReply{Version: wire.ReleaseVersion, Cwd: cfg.cwd, Argv: make([]string, 0, len(cfg.argv)), Env: make([]string, 0, len(cfg.env))}
	for _, f := range cfg.argv {
		b, err := f.with(own)
		if err != nil {
			return nil, err
		}
		r.Argv = append(r.Argv, string(b))
	}
	for _, f := range cfg.env {
		b, err := f.with(own)
		if err != nil {
			return nil, err
		}
		r.Env = append(r.Env, string(b))
	}
	for _, f := range cfg.files {
		b, err := f.content.with(own)
		if err != nil {
			return nil, err
		}
		r.Files = append(r.Files, wire.File{Path: f.path, Mode: f.mode, Content: b, Certificate: f.certificate})
	}
	return r, nil
}

// issueFor makes an instance's own certificates: a fresh P-256 key each, named
// cupel://SESSION/SERVICE/INSTANCE beside the session's DNS names.
func (cfg *config) issueFor(session ident.SessionName, service ident.ServiceName, id ident.InstanceID, now time.Time) (map[string]*material, error) {
	if len(cfg.fresh) == 0 {
		return nil, nil
	}
	own := make(map[string]*material, len(cfg.fresh))
	for _, is := range cfg.fresh {
		m, err := is.issue("cupel://"+string(session)+"/"+string(service)+"/"+id.String(), now)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", is.secret.Name, err)
		}
		own[is.secret.Name] = m
	}
	return own, nil
}

func randomBytes(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("generate secret: %w", err)
	}
	return b, nil
}
