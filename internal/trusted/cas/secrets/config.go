package secrets

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/session"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Service is what a service's configuration is made from.
type Service struct {
	Service *session.Service
	Files   []session.InjectionFile
	Secrets map[string]session.Secret // the session's, by name
	Shared  []string                  // those that the service refers to, the same for all instances
	Fresh   []string                  // certificates that it refers to, one for each instance
}

// Config is a service's configuration with everything filled in that is the same
// for all its instances. Immutable.
type Config struct {
	argv  []filled
	env   []filled // "NAME=" and the value
	cwd   string
	files []filledFile
	fresh []*issuance // in the order of Service.Fresh
	until time.Time   // when a shared certificate is due; zero: never
	// shared are the certificates that it refers to and that instances share.
	shared []*x509.Certificate
	// fixed says that a certificate stands in argv or environment, where nothing
	// can renew it while the app runs.
	fixed bool
}

// filledFile is a file of the image's, filled in.
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

// piece is a part of a text: text, or a reference that is open.
type piece struct {
	text []byte
	ref  *session.Ref // nil: text
}

// issuance is how an instance's own certificate is made.
type issuance struct {
	secret session.Secret
	issuer *Material // nil: self-signed
}

// issue makes the certificate and its key.
func (is *issuance) issue(uri string, now time.Time) (*Material, error) {
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
	return &Material{kind: session.X509, bytes: der, key: key, chain: chain}, nil
}

// cap keeps a certificate from outliving its issuer.
func (is *issuance) cap(until time.Time) time.Time {
	if is.issuer != nil && until.After(is.issuer.cert.NotAfter) {
		return is.issuer.cert.NotAfter
	}
	return until
}

// Validity is when the earliest of an instance's certificates ends, own ones
// issued at now, and when the first of them is due; zero: it has none.
func (cfg *Config) Validity(now time.Time) (ends, due time.Time, err error) {
	for _, is := range cfg.fresh {
		life, err := validFor(is.secret)
		if err != nil {
			return time.Time{}, time.Time{}, err
		}
		until := is.cap(now.Add(life))
		ends = earliest(ends, until)
		due = earliest(due, now.Add(until.Sub(now)/2))
	}
	for _, c := range cfg.shared {
		ends = earliest(ends, c.NotAfter)
		due = earliest(due, renewAt(c))
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

// Certified reports whether a text refers to a certificate that is renewed, or to
// its key.
func Certified(secrets map[string]session.Secret, t session.Text) bool {
	return slices.ContainsFunc(t, func(part session.Part) bool {
		return part.Ref != nil && secrets[part.Ref.Secret].Kind == session.X509
	})
}

// fill puts shared values into a text, after a prefix, and leaves the references to
// certificates of the instance's own open.
func fill(prefix string, t session.Text, shared map[string]*Material) (filled, error) {
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
		b, err := m.Render(*part.Ref)
		if err != nil {
			return nil, fmt.Errorf("reference to secret %s: %w", part.Ref.Secret, err)
		}
		last.text = append(last.text, b...)
	}
	return out, nil
}

// with completes the text with an instance's own certificates.
func (f filled) with(own map[string]*Material) ([]byte, error) {
	if len(f) == 1 {
		return f[0].text, nil
	}

	var out []byte
	for _, p := range f {
		if p.ref == nil {
			out = append(out, p.text...)
			continue
		}
		b, err := own[p.ref.Secret].Render(*p.ref)
		if err != nil {
			return nil, fmt.Errorf("reference to secret %s: %w", p.ref.Secret, err)
		}
		out = append(out, b...)
	}
	return out, nil
}

// Configure fills in what all instances of a service share. due is when one of the
// shared certificates is to be issued again; zero: none is.
func Configure(svc Service, shared map[string]*Material, due time.Time) (*Config, error) {
	cfg := &Config{cwd: svc.Service.Pwd, until: due}
	for _, name := range svc.Fresh {
		sec := svc.Secrets[name]
		cfg.fresh = append(cfg.fresh, &issuance{secret: sec, issuer: shared[sec.Issuer]})
	}
	for _, name := range svc.Shared {
		if m := shared[name]; m.cert != nil && m.kind == session.X509 {
			cfg.shared = append(cfg.shared, m.cert)
		}
	}

	for _, t := range svc.Service.Command {
		cfg.fixed = cfg.fixed || Certified(svc.Secrets, t)
		f, err := fill("", t, shared)
		if err != nil {
			return nil, err
		}
		cfg.argv = append(cfg.argv, f)
	}
	for _, e := range svc.Service.Environment {
		cfg.fixed = cfg.fixed || Certified(svc.Secrets, e.Value)
		f, err := fill(e.Name+"=", e.Value, shared)
		if err != nil {
			return nil, err
		}
		cfg.env = append(cfg.env, f)
	}
	for _, file := range svc.Files {
		f, err := fill("", file.Content, shared)
		if err != nil {
			return nil, err
		}
		cfg.files = append(cfg.files, filledFile{
			path:        file.Path,
			mode:        file.Permission,
			content:     f,
			certificate: Certified(svc.Secrets, file.Content),
		})
	}
	return cfg, nil
}

// Current reports whether the configuration holds at now: no shared certificate in
// it is due.
func (cfg *Config) Current(now time.Time) bool {
	return cfg.until.IsZero() || now.Before(cfg.until)
}

// Fixed reports whether a certificate stands in argv or environment, where nothing
// can renew it while the app runs.
func (cfg *Config) Fixed() bool { return cfg.fixed }

// Reply is the configuration for one instance.
func (cfg *Config) Reply(own map[string]*Material) (*wire.ReleaseReply, error) {
	r := &wire.ReleaseReply{
		Version: wire.ReleaseVersion,
		Cwd:     cfg.cwd,
		Argv:    make([]string, 0, len(cfg.argv)),
		Env:     make([]string, 0, len(cfg.env)),
	}

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

// IssueFor makes an instance's own certificates: a fresh P-256 key each, named
// cupel://SESSION/SERVICE/INSTANCE beside the session's DNS names.
func (cfg *Config) IssueFor(session ident.SessionName, service ident.ServiceName, id ident.InstanceID, now time.Time) (map[string]*Material, error) {
	if len(cfg.fresh) == 0 {
		return nil, nil
	}

	own := make(map[string]*Material, len(cfg.fresh))
	for _, is := range cfg.fresh {
		m, err := is.issue("cupel://"+string(session)+"/"+string(service)+"/"+id.String(), now)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", is.secret.Name, err)
		}
		own[is.secret.Name] = m
	}
	return own, nil
}
