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

// Refusals returns the releases of a session that were refused, the latest first.
// The caller needs the right to read, or is refused with access_policy.
func (c *CAS) Refusals(ctx context.Context, name ident.SessionName) ([]owners.Refusal, error) {
	var out owners.Refusals
	err := c.do(ctx, casCall{
		method: http.MethodGet,
		path:   owners.PathRefusals,
		query:  url.Values{"session": {string(name)}},
		out:    &out,
	})
	return out.Refusals, err
}

// Rotate has the CAS make fresh values of generated secrets with the next
// release, and fresh keys of volumes with the next commit. The caller needs the
// right to update. Asking again rotates secrets again.
//
// Errors: unavailable with cas_answer_lost where it may have been done; of the CAS:
// access_policy, session_unknown, volume_unknown, and what can't be rotated.
func (c *CAS) Rotate(ctx context.Context, req owners.Rotate) (owners.Rotations, error) {
	req.Version = owners.Version
	body, err := json.Marshal(req)
	if err != nil {
		return owners.Rotations{}, fmt.Errorf("marshal rotation: %w", err)
	}

	var out owners.Rotations
	err = c.do(ctx, casCall{
		method: http.MethodPost,
		path:   owners.PathRotations,
		body:   body,
		out:    &out,
		look:   fmt.Sprintf("look whether it was rotated (cupel session rotate %s) before you do it again: what was released since then would be of the value before", req.Session),
	})
	return out, err
}

// Rotations returns what of a session was rotated, and who has what was before. Of the CAS:
// access_policy, session_unknown.
func (c *CAS) Rotations(ctx context.Context, name ident.SessionName) (owners.Rotations, error) {
	var out owners.Rotations
	err := c.do(ctx, casCall{
		method: http.MethodGet,
		path:   owners.PathRotations,
		query:  url.Values{"session": {string(name)}},
		out:    &out,
	})
	return out, err
}
