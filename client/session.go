package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
)

// CreateSession uploads a session's text, as a new session or as the next
// version of one. The caller compares the returned hash with its own.
//
// Errors: invalid with session_size, before anything is sent; what the CAS says of the text
// (session_…), and of who may upload it (access_policy, session_name_taken,
// predecessor_mismatch, namespace_unknown).
func (c *CAS) CreateSession(ctx context.Context, text []byte) (owners.Created, error) {
	var out owners.Created
	if len(text) > owners.MaxSession {
		return out, problem.New(problem.Invalid, ruleSessionSize, "a session of %d bytes", len(text)).Want("at most %d", owners.MaxSession)
	}

	err := c.do(ctx, casCall{
		method: http.MethodPost,
		path:   owners.PathSessions,
		body:   text,
		status: http.StatusCreated,
		out:    &out,
	})
	return out, err
}

// ReadSession returns a session's current version, or the one with the given
// hash. The caller needs the right to read.
//
// Errors: denied with session_hash where another version came than was asked for; of the CAS:
// access_policy, session_unknown.
func (c *CAS) ReadSession(ctx context.Context, name ident.SessionName, hash *ident.Digest) (owners.Session, error) {
	q := url.Values{}
	if hash != nil {
		q.Set("hash", hash.String())
	}

	var out owners.Session
	err := c.do(ctx, casCall{
		method: http.MethodGet,
		path:   owners.PathSessions + "/" + string(name),
		query:  q,
		out:    &out,
	})

	if err == nil && hash != nil && out.Hash != *hash {
		return owners.Session{}, problem.New(problem.Denied, problem.RuleSessionHash, "the CAS answered version %s", out.Hash).Want("%s", hash)
	}

	return out, err
}

// RemoveSession drops a session with all its versions, values and volume keys,
// and ends its grants and instances. There is no way back.
//
// Errors: unavailable with cas_answer_lost where it may have been done; of the CAS:
// access_policy, session_unknown.
func (c *CAS) RemoveSession(ctx context.Context, name ident.SessionName) (owners.Removed, error) {
	var out owners.Removed
	err := c.do(ctx, casCall{
		method: http.MethodDelete,
		path:   owners.PathSessions + "/" + string(name),
		out:    &out,
		look:   fmt.Sprintf("look whether it is still there: cupel session read %s", name),
	})
	return out, err
}

// Values returns what the session shows to the public, by name; the caller needs no
// certificate. Of the CAS: session_unknown.
func (c *CAS) Values(ctx context.Context, name ident.SessionName) (map[string]owners.Value, error) {
	var out owners.Values
	err := c.do(ctx, casCall{method: http.MethodGet, path: owners.PathValues + "session=" + string(name), out: &out})
	return out.Values, err
}

// Value returns one public value. Of the CAS: session_unknown, or that there is no such
// value.
func (c *CAS) Value(ctx context.Context, name ident.SessionName, secret ident.SecretName) (owners.Value, error) {
	var out owners.Value
	err := c.do(ctx, casCall{method: http.MethodGet, path: owners.PathValues + "session=" + string(name) + ",secret=" + string(secret), out: &out})
	return out, err
}

// Instances returns the attested instances of a session: all that run, and the latest that
// ended. Of the CAS: access_policy, session_unknown.
func (c *CAS) Instances(ctx context.Context, name ident.SessionName) ([]owners.Instance, error) {
	out, err := c.State(ctx, name)
	return out.Instances, err
}

// State returns the attested instances of a session, and its volumes as they are
// now. Of the CAS: access_policy, session_unknown.
func (c *CAS) State(ctx context.Context, name ident.SessionName) (owners.Instances, error) {
	var out owners.Instances
	err := c.do(ctx, casCall{method: http.MethodGet, path: owners.PathSessions + "/" + string(name) + owners.SuffixInstances, out: &out})
	return out, err
}

// Version returns what software the CAS says that it is.
func (c *CAS) Version(ctx context.Context) (owners.VersionInfo, error) {
	var out owners.VersionInfo
	err := c.do(ctx, casCall{method: http.MethodGet, path: owners.PathVersion, out: &out})
	return out, err
}
