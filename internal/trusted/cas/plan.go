package cas

import (
	"slices"
	"sync/atomic"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
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
	policy  appraise.Policy // without ReportData and LaunchBinding, which differ by instance
	// attested is false for `mode: none`.
	attested bool
	mounts   []session.VolumeMount
	files    []session.InjectionFile
	shared   []string // secrets that the service refers to, the same for all instances
	fresh    []string // x509 secrets that it refers to, one for each instance
	ready    atomic.Pointer[secrets.Config]
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
			if _, err := secrets.Given(sec); err != nil {
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

// compileService works out what a release needs to know about a service.
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

	// What the service refers to: values that its instances share, and certificates
	// that each of them gets of its own, with their issuers.
	for _, t := range texts {
		for _, part := range t {
			if part.Ref == nil {
				continue
			}
			sec, ok := p.secrets[part.Ref.Secret]
			if !ok {
				return nil, problem.New(problem.Invalid, secrets.RuleSecretUnknown, "service %s refers to secret %q", svc.Name, part.Ref.Secret).
					Fix("define it under secrets")
			}
			if secrets.PerInstance(sec) {
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
