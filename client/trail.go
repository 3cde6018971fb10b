package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/ident"
)

// Refusals returns the releases of a session that were refused, the latest first.
// The caller needs the right to read.
func (c *Client) Refusals(ctx context.Context, name ident.SessionName) ([]api.Refusal, error) {
	var out api.Refusals
	err := c.do(ctx, call{method: http.MethodGet, path: api.PathRefusals, query: url.Values{"session": {string(name)}}, out: &out})
	return out.Refusals, err
}

// Rotate has the CAS make fresh values of generated secrets with the next
// release, and fresh keys of volumes with the next commit. The caller needs the
// right to update. Asking again rotates secrets again.
func (c *Client) Rotate(ctx context.Context, req api.Rotate) (api.Rotations, error) {
	req.Version = api.Version
	body, err := json.Marshal(req)
	if err != nil {
		return api.Rotations{}, fmt.Errorf("marshal rotation: %w", err)
	}
	var out api.Rotations
	err = c.do(ctx, call{
		method: http.MethodPost, path: api.PathRotations, body: body, out: &out,
		look: fmt.Sprintf("look whether it was rotated (cupel session rotate %s) before you do it again: what was released since then would be of the value before", req.Session),
	})
	return out, err
}

// Rotations returns what of a session was rotated, and who has what was before.
func (c *Client) Rotations(ctx context.Context, name ident.SessionName) (api.Rotations, error) {
	var out api.Rotations
	err := c.do(ctx, call{method: http.MethodGet, path: api.PathRotations, query: url.Values{"session": {string(name)}}, out: &out})
	return out, err
}
