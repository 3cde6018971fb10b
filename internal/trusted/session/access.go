package session

import (
	"crypto/x509"
	"encoding/pem"
	"regexp"
	"slices"
	"strings"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/trusted/verify/appraise"
	"go.yaml.in/yaml/v4"
)

// Words of an access policy.
const (
	Creator = "CREATOR"
	Any     = "ANY"
	None    = "NONE"
)

// Operation is what an access policy rules.
type Operation string

// Operations of an access policy.
const (
	OpRead           Operation = "read"
	OpUpdate         Operation = "update"
	OpCreateSessions Operation = "create_sessions"
	OpDeploy         Operation = "deploy"
)

// Allows reports whether the caller may do op on a session that creator made.
// A zero caller presented no key: only ANY lets it in.
func (p AccessPolicy) Allows(op Operation, caller, creator ident.KeyHash) bool {
	var entries []AccessEntry
	switch op {
	case OpRead:
		entries = p.Read
	case OpUpdate:
		entries = p.Update
	case OpCreateSessions:
		entries = p.CreateSessions
	case OpDeploy:
		entries = p.Deploy
		if entries == nil {
			return !caller.IsZero() && caller == creator || p.Allows(OpUpdate, caller, creator)
		}
	}

	return slices.ContainsFunc(entries, func(e AccessEntry) bool {
		switch e.Word {
		case Any:
			return true
		case Creator:
			return !caller.IsZero() && caller == creator
		case "":
			return !caller.IsZero() && caller == e.Key
		}
		return false
	})
}

// AsksForGrant reports whether a copy of the session's services runs only under
// a grant: always, unless deploy says ANY.
func (p AccessPolicy) AsksForGrant() bool {
	return !slices.ContainsFunc(p.Deploy, func(e AccessEntry) bool { return e.Word == Any })
}

// Open reports whether anybody at all may do op.
func (p AccessPolicy) Open(op Operation) bool { return p.Allows(op, ident.KeyHash{}, ident.KeyHash{}) }

// EndsGrant reports whether a version with this policy ends a grant that maker
// made, asCreator telling whether it was the session's CREATOR at that time. It
// does only where deploy is written and leaves the maker out: an upload by a
// colleague, which moves CREATOR, takes nothing away.
func (p AccessPolicy) EndsGrant(maker ident.KeyHash, asCreator bool) bool {
	return p.Deploy != nil && !slices.ContainsFunc(p.Deploy, func(e AccessEntry) bool {
		return e.Word == Any || e.Word == Creator && asCreator || e.Word == "" && e.Key == maker
	})
}

// String writes the entry as it stands in a session.
func (e AccessEntry) String() string {
	if e.Word != "" {
		return e.Word
	}
	return e.Key.String()
}

func (r *reader) access(f fields) {
	p := &r.session.Access
	var a fields
	if n := f.values["access_policy"]; n != nil && !isNull(n) {
		if n.Kind == yaml.ScalarNode && strings.HasPrefix(n.Value, refIntro) {
			r.refuse(n, ruleUnsupported, "an access policy out of a secret is known to the SCONE language, but not supported yet")
			return
		}
		a = r.mapping(n, &sectionAccess)
	}

	creator := []AccessEntry{{Word: Creator}}
	p.Read = r.entries(a, "read", creator)
	p.Update = r.entries(a, "update", creator)
	p.CreateSessions = r.entries(a, "create_sessions", p.Update)

	if a.has("deploy") {
		p.Deploy = r.entries(a, "deploy", nil)
	}

	if !p.AsksForGrant() {
		r.warn(a.at("deploy"), "deploy: [ANY] lets anybody run the session's services, as many copies as they like, with its secrets")
	}
}

func (r *reader) entries(f fields, key string, fallback []AccessEntry) []AccessEntry {
	if !f.has(key) {
		return slices.Clone(fallback)
	}

	var out []AccessEntry
	for _, n := range r.elements(f, key) {
		e := r.entry(n, key)
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}

	if len(out) == 0 {
		r.refuse(f.at(key), ruleField, "%s is empty", key).Fix("write [NONE] for nobody")
	}

	for _, e := range out {
		if (e.Word == Any || e.Word == None) && len(out) > 1 {
			r.refuse(f.at(key), ruleField, "%s in %s is not alone", e.Word, key).Fix("remove it or the others")
		}
	}

	return out
}

func (r *reader) entry(n *yaml.Node, key string) AccessEntry {
	if n.Kind == yaml.MappingNode && len(n.Content) > 0 && later.MatchString(n.Content[0].Value) {
		r.refuse(n, ruleUnsupported, "the access rule %s is known to the SCONE language, but not supported yet", n.Content[0].Value).
			Fix("write CREATOR, ANY, NONE, a key hash or a PEM certificate")
		return AccessEntry{}
	}

	v := r.scalar(n, "an entry of "+key)

	switch {
	case v == Creator || v == Any || v == None:
		return AccessEntry{Word: v}
	case strings.HasPrefix(v, refIntro):
		r.refuse(n, ruleUnsupported, "an access rule out of a secret is known to the SCONE language, but not supported yet")
		return AccessEntry{}
	}

	hash, err := ParseKeyHash(v)
	if err != nil {
		r.refuse(n, ruleField, "%s: %v", key, err).
			Want("CREATOR, ANY, NONE, a key hash (64 hex digits or SCONE's Base58Check form) or a PEM certificate")
	}

	return AccessEntry{Key: hash}
}

var later = regexp.MustCompile(`^(signer|require-all|require-at-least-[0-9]+)$`)

// ParseKeyHash reads a key's hash in hex or in SCONE's form, or takes it of a
// PEM certificate's key.
func ParseKeyHash(v string) (ident.KeyHash, error) {
	if strings.HasPrefix(strings.TrimSpace(v), "-----BEGIN") {
		block, rest := pem.Decode([]byte(v))
		if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
			return ident.KeyHash{}, errNoCertificate
		}

		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return ident.KeyHash{}, errNoCertificate
		}

		return ident.HashCertKey(c), nil
	}

	if len(v) == 64 {
		return ident.ParseKeyHash(v)
	}

	return parseBase58Hash(v)
}

// security reads the section; tolerances and advisories come out sorted and
// without duplicates, for their order means nothing.
func (r *reader) security(n *yaml.Node) {
	out := &r.session.Security
	out.Mode = "hardware"

	if n.Kind == yaml.ScalarNode && strings.HasPrefix(n.Value, refIntro) {
		r.refuse(n, ruleUnsupported, "a security section out of a secret is known to the SCONE language, but not supported yet")
		return
	}

	a := r.mapping(n, &sectionSecurity).values["attestation"]
	if a == nil || isNull(a) {
		return
	}

	f := r.mapping(a, &sectionSecurityAttestation)
	out.Mode = r.word(f, "mode", "hardware", "hardware", "none")

	if u := f.values["url"]; u != nil && !isNull(u) && (u.Kind != yaml.ScalarNode || u.Value != "") {
		r.refuse(u, ruleUnsupported, "the url of an attestation provider is known to the SCONE language, but not supported yet")
	}

	for _, t := range r.elements(f, "tolerate") {
		out.Tolerate = append(out.Tolerate, r.tolerance(t))
	}

	slices.Sort(out.Tolerate)
	out.Tolerate = slices.Compact(out.Tolerate)

	r.advisories(f)
}

// tolerance reads one entry of tolerate. A simulated root's digest may be
// written in either case, and is kept in small letters.
func (r *reader) tolerance(n *yaml.Node) evidence.Tolerance {
	v := evidence.Tolerance(r.scalar(n, "tolerate"))
	if root, ok := v.SimulationRoot(); ok {
		return evidence.SimulationUnder(root)
	}

	if v == evidence.Simulation {
		r.warn(n, "tolerate: simulation names no root and so tolerates nothing: "+
			"write simulation:SHA256 with the root that you gave to `cupel cas attest --trust-simulation`")
	}

	if strings.HasPrefix(string(v), string(evidence.Simulation)+":") {
		r.refuse(n, ruleField, "tolerate: simulation without the digest of a root").
			Want("simulation:SHA256, with the 64 hex digits of the root that you gave to `cupel cas attest --trust-simulation`")
		return v
	}

	if v != evidence.Simulation { // understood, but nothing to recommend
		r.oneOf(n, "tolerate", string(v), tolerances)
	}

	return v
}

// tolerances are the words for `tolerate:`.
var tolerances = []string{
	string(evidence.DebugMode), string(evidence.Simulation) + ":SHA256", string(evidence.Hyperthreading), string(evidence.InsecureIGPU),
	string(evidence.SoftwareHardening), string(evidence.InsecureConfiguration), string(evidence.OutdatedTCB), string(evidence.AEPICLeak),
}

var advisory = regexp.MustCompile(`^INTEL-SA-[0-9]{5}$`)

func (r *reader) advisories(f fields) {
	out := &r.session.Security
	for _, n := range r.elements(f, "ignore_advisories") {
		v := r.scalar(n, "ignore_advisories")
		switch {
		case v == "*" && !slices.Contains(out.Tolerate, evidence.DebugMode):
			r.refuse(n, ruleField, `ignore_advisories "*" without debug-mode`).
				Want("it only together with `tolerate: [debug-mode]`").Fix("list the advisories")
		case v != "*" && !advisory.MatchString(v):
			r.refuse(n, ruleField, "ignore_advisories: %s", shown(v, nil)).Want(`INTEL-SA-nnnnn or "*"`)
		}

		out.IgnoreAdvisories = append(out.IgnoreAdvisories, v)
	}

	slices.Sort(out.IgnoreAdvisories)
	out.IgnoreAdvisories = slices.Compact(out.IgnoreAdvisories)

	if len(out.IgnoreAdvisories) > 0 && !slices.ContainsFunc(out.Tolerate, func(t evidence.Tolerance) bool {
		return t == evidence.SoftwareHardening || t == evidence.InsecureConfiguration || t == evidence.OutdatedTCB || t == evidence.DebugMode
	}) {
		r.warn(f.at("ignore_advisories"), "ignored advisories have no effect unless software-hardening-needed, insecure-configuration or outdated-tcb is tolerated")
	}
}

// Policy is what the claims of one of the service's instances must meet; the
// caller adds ReportData and LaunchBinding. With mode none and no code identity it
// has no Identities, which an appraisal refuses.
func (s *Session) Policy(svc *Service) appraise.Policy {
	return appraise.Policy{
		Identities:       slices.Clip(svc.Attestation),
		Tolerate:         slices.Clip(s.Security.Tolerate),
		IgnoreAdvisories: slices.Clip(s.Security.IgnoreAdvisories),
	}
}
