package cas

import (
	"context"
	"fmt"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas/secrets"
)

// ValueRef says which public values are asked for.
type ValueRef struct {
	Session ident.SessionName
	Secret  string // empty: all
	// Hash, where it is set, asks for an answer only if this version is current.
	// That tells whether a guess of the session's text is right, values that its
	// owner gave included: hence only to those who may read it, unless a salt
	// makes guessing hopeless.
	Hash *ident.Digest
}

// Values returns secrets that a session exports to the public.
func (c *CAS) Values(ctx context.Context, who Caller, ref ValueRef) (owners.Values, error) {
	out, err := c.values(ctx, who, ref)
	if err == nil {
		return out, nil
	}
	if ref.Secret != "" {
		return out, chained(err, "Failed to read value '%s' of '/session=%s' requested by a public client", ref.Secret, ref.Session)
	}
	return out, chained(err, "Failed to read the values of '/session=%s' requested by a public client", ref.Session)
}

func (c *CAS) values(ctx context.Context, who Caller, ref ValueRef) (owners.Values, error) {
	s, err := c.reading(ctx, ref.Session)
	if err != nil {
		return owners.Values{}, err
	}
	defer s.mu.RUnlock()

	if ref.Hash != nil && !s.plan.session.Salted() && s.mayRead(who) != nil {
		p := problem.New(problem.Denied, problem.RuleSessionHash, "the caller has no right to read session %q, so that it can't ask for a version by its hash", ref.Session).
			Want("the right to read, or a session whose text has a salt").
			Fix("leave session_hash out; or let the session's owner add `salt:` with 16 random characters or more")
		p.Msg = []string{fmt.Sprintf("You have insufficient rights to access session %s", ref.Session)}
		return owners.Values{}, p
	}

	if ref.Hash != nil && *ref.Hash != s.current.Hash {
		p := problem.New(problem.NotFound, problem.RuleSessionVersion, "version %s of session %q is not the current one", ref.Hash, ref.Session).
			Fix("ask the session's owner for the hash of the current version")
		p.Msg = []string{"The session's current version has another hash"}
		return owners.Values{}, p
	}

	var names []string
	for _, sec := range s.plan.session.Secrets {
		if sec.ExportPublic && !secrets.PerInstance(sec) && (ref.Secret == "" || ref.Secret == sec.Name) {
			names = append(names, sec.Name)
		}
	}

	if ref.Secret != "" && len(names) == 0 {
		p := problem.New(problem.NotFound, ruleValueUnknown, "session %q has no public value %q", ref.Session, ref.Secret).
			Fix("check the name; its owner exports it with export_public: true")
		p.Msg = []string{"Secret does not exist or is not visible for a public client"}
		return owners.Values{}, p
	}

	got, err := c.publishedOf(ctx, s, names, who)
	if err != nil {
		return owners.Values{}, err
	}

	out := owners.Values{Values: make(map[string]owners.Value, len(names))}
	for _, name := range names {
		v, err := got[name].Public(s.plan.secrets[name])
		if err != nil {
			return owners.Values{}, err
		}
		out.Values[name] = v
	}
	return out, nil
}
