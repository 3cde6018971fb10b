package secrets

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/session"
)

// record is the row of a generated secret. Fingerprint covers what must
// stay for the value to be kept over a session update.
type record struct {
	Fingerprint string   `json:"fingerprint"`
	Value       []byte   `json:"value"`
	Key         []byte   `json:"key,omitempty"` // x509 kinds: the certificate's own key, where no private-key secret holds it
	Chain       [][]byte `json:"chain,omitempty"`
}

// restore turns a row back into material.
func restore(s session.Secret, r record) (*Material, error) {
	m := &Material{kind: s.Kind, bytes: r.Value, chain: r.Chain}
	switch s.Kind {
	case session.PrivateKey:
		return m, m.setKey(r.Value)
	case session.X509, session.X509CA:
		cert, err := x509.ParseCertificate(r.Value)
		if err != nil {
			return nil, err
		}
		m.cert = cert
		if r.Key != nil {
			if err := m.setKey(r.Key); err != nil {
				return nil, err
			}
			m.bytes = r.Value
		}
	}
	return m, nil
}

// Value is a generated secret as it is kept over versions of its session. The zero
// Value is none.
type Value struct {
	fingerprint string
	material    *Material
}

// Made is a value that was generated and is not kept yet.
type Made struct {
	Name  string
	Value Value
	Row   []byte // what of it is to be durable before it is used
}

// Source is where a session's secrets come from.
type Source struct {
	// Secrets are those that the session's current version defines, by name.
	Secrets map[string]session.Secret
	// Kept are the generated values in memory; Resolve adds what it reads.
	Kept map[string]Value
	// Read returns the row of a generated value, nil where there is none.
	Read func(ctx context.Context, name string) ([]byte, error)
	// Afresh are secrets whose kept values don't count: they are generated again.
	Afresh map[string]bool
	// AsTheyAre lets certificates stay, due or not.
	AsTheyAre bool
	Now       time.Time
}

// Resolved are secrets with their values.
type Resolved struct {
	Materials map[string]*Material
	// Made are the values that were generated, in that order: whoever asked makes
	// them durable, and keeps them, before anybody gets them.
	Made []Made
	// Due is the earliest time at which a certificate is to be renewed; zero: none is.
	Due time.Time
}

// Resolve works out the named secrets and what they depend on. It generates what is
// missing, due, or to be made afresh.
func (src Source) Resolve(ctx context.Context, names []string) (Resolved, error) {
	r := &resolver{
		Source:   src,
		ctx:      ctx,
		Resolved: Resolved{Materials: make(map[string]*Material, len(names))},
	}
	for _, name := range names {
		if _, err := r.resolve(name, 0); err != nil {
			return Resolved{}, err
		}
	}
	return r.Resolved, nil
}

// resolver is one Resolve under way.
type resolver struct {
	Source
	Resolved
	ctx context.Context //nolint:containedctx // lives for one call
}

// maxDepth is how far issuers and keys may go on: language and this bound let no
// session go round in a circle.
const maxDepth = 8

// resolve is one secret, worked out before or now.
func (r *resolver) resolve(name string, depth int) (*Material, error) {
	if m, ok := r.Materials[name]; ok {
		return m, nil
	}
	sec, ok := r.Secrets[name]
	if !ok || depth > maxDepth {
		return nil, problem.New(problem.Invalid, RuleSecretUnknown, "secret %q is not defined, or its issuers go round in a circle", name)
	}

	m, err := r.make(sec, depth)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	if m.cert != nil && !sec.HasValue && sec.Kind != session.X509CA {
		r.Due = earliest(r.Due, renewAt(m.cert))
	}
	r.Materials[name] = m
	return m, nil
}

// make is the secret as it was given, as it is kept, or generated.
func (r *resolver) make(sec session.Secret, depth int) (*Material, error) {
	key, issuer, err := r.dependencies(sec, depth)
	if err != nil {
		return nil, err
	}

	if sec.HasValue {
		m, err := Given(sec)
		if err != nil {
			return nil, err
		}
		if key != nil {
			m.key = key.key
		}
		return m, nil
	}

	// What the certificate rests on belongs to how it was made: under another key or
	// issuer it is another one.
	print := Fingerprint(sec)
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
	if m != nil && m.cert != nil && !r.AsTheyAre {
		again, err := due(sec, m.cert, r.Now)
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

// dependencies are the key that a certificate is for, and who issues it; nil where
// the secret names none.
func (r *resolver) dependencies(sec session.Secret, depth int) (key, issuer *Material, err error) {
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
func (r *resolver) load(sec session.Secret, print string) (*Material, error) {
	if r.Afresh[sec.Name] {
		return nil, nil
	}
	if st, ok := r.Kept[sec.Name]; ok {
		if st.fingerprint == print {
			return st.material, nil
		}
		return nil, nil
	}

	plain, err := r.Read(r.ctx, sec.Name)
	if err != nil || plain == nil {
		return nil, err
	}

	var rec record
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
	r.Kept[sec.Name] = Value{fingerprint: print, material: m}
	return m, nil
}

// generate makes a value, and notes it for the caller to keep.
func (r *resolver) generate(sec session.Secret, key, issuer *Material, print string) (*Material, error) {
	m := &Material{kind: sec.Kind}
	rec := record{Fingerprint: print}
	var err error
	switch sec.Kind {
	case session.ASCII:
		m.bytes, err = randomASCII(Size(sec))
	case session.Binary:
		m.bytes, err = Random(Size(sec))
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

	r.Made = append(r.Made, Made{
		Name:  sec.Name,
		Value: Value{fingerprint: print, material: m},
		Row:   plain,
	})
	return m, nil
}

// certify issues sec's certificate into m; where no private-key secret holds its
// key, a new one is made and returned.
func (r *resolver) certify(sec session.Secret, m *Material, key, issuer *Material) (ownKey []byte, err error) {
	if key != nil {
		m.key = key.key
	} else if m.key, ownKey, err = generateKey("P-256"); err != nil {
		return nil, err
	}

	t, err := certTemplate(sec, r.Now)
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
