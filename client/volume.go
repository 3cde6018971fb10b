package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"cupel.dev/cupel/internal/trusted/cas/api"
	"cupel.dev/cupel/internal/trusted/ident"
)

// ResetVolume has a volume of the session start afresh, empty and under another
// key. The caller needs the right to update.
func (c *Client) ResetVolume(ctx context.Context, session ident.SessionName, volume string) (api.VolumeReset, error) {
	body, err := json.Marshal(api.ResetVolume{Version: api.Version, Session: session, Volume: volume})
	if err != nil {
		return api.VolumeReset{}, fmt.Errorf("marshal reset: %w", err)
	}
	var out api.VolumeReset
	err = c.do(ctx, call{
		method: http.MethodPost, path: api.PathVolumeReset, body: body, out: &out,
		look: "look whether the volume was reset (cupel audit verify --show, the newest entries) before you do it again: what is stored since then would be lost",
	})
	return out, err
}
