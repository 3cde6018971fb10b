package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// CreateSession uploads a session's text, as a new session or as the next
// version of one. The caller compares the returned hash with its own.
func (c *Client) CreateSession(ctx context.Context, text []byte) (api.Created, error) {
	var out api.Created
	if len(text) > api.MaxSession {
		return out, problem.New(problem.Invalid, "session_size", "a session of %d bytes", len(text)).Want("at most %d", api.MaxSession)
	}
	err := c.do(ctx, call{method: http.MethodPost, path: api.PathSessions, body: text, status: http.StatusCreated, out: &out})
	return out, err
}

// ReadSession returns a session's current version, or the one with the given
// hash.
func (c *Client) ReadSession(ctx context.Context, name ident.SessionName, hash *ident.Digest) (api.Session, error) {
	q := url.Values{}
	if hash != nil {
		q.Set("hash", hash.String())
	}
	var out api.Session
	err := c.do(ctx, call{method: http.MethodGet, path: api.PathSessions + "/" + string(name), query: q, out: &out})
	if err == nil && hash != nil && out.Hash != *hash {
		return api.Session{}, problem.New(problem.Denied, "session_hash", "the CAS answered version %s", out.Hash).Want("%s", hash)
	}
	return out, err
}

// RemoveSession drops a session with all its versions, values and volume keys,
// and ends its grants and instances. There is no way back.
func (c *Client) RemoveSession(ctx context.Context, name ident.SessionName) (api.Removed, error) {
	var out api.Removed
	err := c.do(ctx, call{
		method: http.MethodDelete, path: api.PathSessions + "/" + string(name), out: &out,
		look: fmt.Sprintf("look whether it is still there: cupel session read %s", name),
	})
	return out, err
}

// Values returns what the session shows to the public, by name.
func (c *Client) Values(ctx context.Context, name ident.SessionName) (map[string]api.Value, error) {
	var out api.Values
	err := c.do(ctx, call{method: http.MethodGet, path: api.PathValues + "session=" + string(name), out: &out})
	return out.Values, err
}

// Value returns one public value.
func (c *Client) Value(ctx context.Context, name ident.SessionName, secret string) (api.Value, error) {
	var out api.Value
	err := c.do(ctx, call{method: http.MethodGet, path: api.PathValues + "session=" + string(name) + ",secret=" + secret, out: &out})
	return out, err
}

// Instances returns the attested instances of a session.
func (c *Client) Instances(ctx context.Context, name ident.SessionName) ([]api.Instance, error) {
	out, err := c.State(ctx, name)
	return out.Instances, err
}

// State returns the attested instances of a session, and its volumes as they are
// now.
func (c *Client) State(ctx context.Context, name ident.SessionName) (api.Instances, error) {
	var out api.Instances
	err := c.do(ctx, call{method: http.MethodGet, path: api.PathSessions + "/" + string(name) + api.SuffixInstances, out: &out})
	return out, err
}

// Version returns what software the CAS says that it is.
func (c *Client) Version(ctx context.Context) (api.VersionInfo, error) {
	var out api.VersionInfo
	err := c.do(ctx, call{method: http.MethodGet, path: api.PathVersion, out: &out})
	return out, err
}
