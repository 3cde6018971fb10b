package owners

import (
	"time"

	"cupel.dev/cupel/api/ident"
)

// Rotate asks for fresh values of a session's generated secrets, and for fresh
// keys of its volumes.
type Rotate struct {
	Version int               `json:"version"`
	Session ident.SessionName `json:"session"`
	Secrets []string          `json:"secrets,omitempty"`
	Volumes []string          `json:"volumes,omitempty"`
}

// Rotations is what of a session was rotated, and who still has what was before.
type Rotations struct {
	Version int        `json:"version"`
	Secrets []Rotation `json:"secrets"`
	Volumes []Rotation `json:"volumes"`
}

// Rotation is the newest rotation of one secret or volume.
type Rotation struct {
	Name    string    `json:"name"`
	Rotated time.Time `json:"rotated"`
	// Pending says that the fresh value is not in use yet: a secret's is made by
	// the next release, a volume's key is used by the next commit.
	Pending bool `json:"pending,omitempty"`
	// Old are the running instances that have what was before.
	Old []ident.InstanceID `json:"old,omitempty"`
}
