package cas

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/url"
	"time"

	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/release"
	"cupel.dev/cupel/internal/trusted/session"
)

// config is a service's configuration with everything filled in that is the same
// for all its instances. Immutable.
type config struct {
	argv  []filled
	env   []filled // "NAME=" and the value
	cwd   string
	files []filledFile
	fresh []*issuance // in the order of servicePlan.fresh
	until time.Time   // when a certificate is due; zero: never
}

type filledFile struct {
	path    string
	mode    uint32
	content filled
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
	if is.issuer != nil && t.NotAfter.After(is.issuer.cert.NotAfter) {
		t.NotAfter = is.issuer.cert.NotAfter
	}
	der, chain, err := issue(t, key, is.issuer)
	if err != nil {
		return nil, err
	}
	return &material{kind: session.X509, bytes: der, key: key, chain: chain}, nil
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
	for _, t := range sp.service.Command {
		f, err := fill("", t, shared)
		if err != nil {
			return nil, err
		}
		cfg.argv = append(cfg.argv, f)
	}
	for _, e := range sp.service.Environment {
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
		cfg.files = append(cfg.files, filledFile{file.Path, file.Permission, f})
	}
	return cfg, nil
}

// reply is the configuration for one instance.
func (cfg *config) reply(own map[string]*material) (*release.Reply, error) {
	r := &release.Reply{Version: release.Version, Cwd: cfg.cwd, Argv: make([]string, 0, len(cfg.argv)), Env: make([]string, 0, len(cfg.env))}
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
		r.Files = append(r.Files, release.File{Path: f.path, Mode: f.mode, Content: b})
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

// renewAt is when two thirds of a certificate's life are over.
func renewAt(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2)
}
