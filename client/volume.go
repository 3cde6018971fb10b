package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
)

// ResetVolume has a volume of the session start afresh, empty and under another
// key. The caller needs the right to update.
//
// Errors: unavailable with cas_answer_lost where it may have been done; of the CAS:
// access_policy, session_unknown, volume_unknown.
func (c *CAS) ResetVolume(ctx context.Context, session ident.SessionName, volume ident.VolumeName) (owners.VolumeReset, error) {
	body, err := json.Marshal(owners.ResetVolume{Version: owners.Version, Session: session, Volume: string(volume)})
	if err != nil {
		return owners.VolumeReset{}, fmt.Errorf("marshal reset: %w", err)
	}

	var out owners.VolumeReset
	err = c.do(ctx, casCall{
		method: http.MethodPost,
		path:   owners.PathVolumeReset,
		body:   body,
		out:    &out,
		look:   "look whether the volume was reset (cupel audit verify --show, the newest entries) before you do it again: what is stored since then would be lost",
	})
	return out, err
}
