package owners

import (
	"cupel.dev/cupel/api/ident"
)

// ResetVolume asks for a volume to start afresh: empty, under another key. The
// caller's key must have the right to update the session.
type ResetVolume struct {
	Version int               `json:"version"`
	Session ident.SessionName `json:"session"`
	Volume  string            `json:"volume"`
}

// VolumeReset answers ResetVolume, durable when it is sent.
type VolumeReset struct {
	Version int               `json:"version"`
	Session ident.SessionName `json:"session"`
	Volume  string            `json:"volume"`
	Was     uint64            `json:"was"` // the generation that was given up
}
