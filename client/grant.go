package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/release"
)

// MakeGrant gives the right to run a session's services. The code in the answer
// is shown this once. A call whose answer was lost is not made again, and may leave a
// grant whose code nobody has and which ends unused.
func (c *Client) MakeGrant(ctx context.Context, g api.NewGrant) (api.GrantMade, error) {
	g.Version = api.Version
	var out api.GrantMade
	look := fmt.Sprintf("run it again: a grant that was made, whose code nobody has, ends unused, and cupel session grants %s shows it, to withdraw it before", g.Session)
	err := c.send(ctx, call{method: http.MethodPost, path: api.PathGrants, status: http.StatusCreated, out: &out, look: look}, g)
	return out, err
}

// Grants lists a session's grants, newest first.
func (c *Client) Grants(ctx context.Context, name ident.SessionName) ([]api.Grant, error) {
	var out api.Grants
	q := url.Values{"session": {string(name)}}
	err := c.do(ctx, call{method: http.MethodGet, path: api.PathGrants, query: q, out: &out})
	return out.Grants, err
}

// ChangeGrant gives services of a grant another number, at once.
func (c *Client) ChangeGrant(ctx context.Context, id release.GrantID, change api.GrantChange) (api.Grant, error) {
	change.Version = api.Version
	var out api.Grant
	err := c.send(ctx, call{method: http.MethodPatch, path: api.PathGrants + "/" + id.String(), out: &out}, change)
	return out, err
}

// WithdrawGrant ends a grant with the rights of all that run under it. It is no
// error if it has ended.
func (c *Client) WithdrawGrant(ctx context.Context, id release.GrantID) (api.Grant, error) {
	var out api.Grant
	err := c.do(ctx, call{method: http.MethodDelete, path: api.PathGrants + "/" + id.String(), out: &out})
	return out, err
}

// send is do with a body in JSON.
func (c *Client) send(ctx context.Context, q call, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	q.body = b
	return c.do(ctx, q)
}
