package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
)

// MakeGrant gives the right to run a session's services. The code in the answer
// is shown this once. A call whose answer was lost is not made again, and may leave a
// grant whose code nobody has and which ends unused.
//
// Errors: unavailable with cas_answer_lost where it may have been made; of the CAS:
// access_policy, session_unknown, service_unknown, grant_number, app_name.
func (c *CAS) MakeGrant(ctx context.Context, g owners.NewGrant) (owners.GrantMade, error) {
	g.Version = owners.Version
	var out owners.GrantMade
	look := fmt.Sprintf("run it again: a grant that was made, whose code nobody has, ends unused, and cupel session grants %s shows it, to withdraw it before", g.Session)
	err := c.send(ctx, casCall{
		method: http.MethodPost,
		path:   owners.PathGrants,
		status: http.StatusCreated,
		out:    &out,
		look:   look,
	}, g)
	return out, err
}

// Grants lists a session's grants, newest first. Of the CAS: access_policy, session_unknown.
func (c *CAS) Grants(ctx context.Context, name ident.SessionName) ([]owners.Grant, error) {
	var out owners.Grants
	q := url.Values{"session": {string(name)}}
	err := c.do(ctx, casCall{
		method: http.MethodGet,
		path:   owners.PathGrants,
		query:  q,
		out:    &out,
	})
	return out.Grants, err
}

// ChangeGrant gives services of a grant another number, at once. Of the CAS: grant_unknown,
// grant_ended, access_policy, grant_number.
func (c *CAS) ChangeGrant(ctx context.Context, id owners.GrantID, change owners.GrantChange) (owners.Grant, error) {
	change.Version = owners.Version
	var out owners.Grant
	err := c.send(ctx, casCall{method: http.MethodPatch, path: owners.PathGrants + "/" + id.String(), out: &out}, change)
	return out, err
}

// WithdrawGrant ends a grant with the rights of all that run under it. It is no
// error if it has ended. Of the CAS: grant_unknown, access_policy.
func (c *CAS) WithdrawGrant(ctx context.Context, id owners.GrantID) (owners.Grant, error) {
	var out owners.Grant
	err := c.do(ctx, casCall{method: http.MethodDelete, path: owners.PathGrants + "/" + id.String(), out: &out})
	return out, err
}

// send is do with a body in JSON.
func (c *CAS) send(ctx context.Context, q casCall, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	q.body = b
	return c.do(ctx, q)
}
