package problem

import (
	"crypto/rand"
	"encoding/hex"
)

// HeaderRequestID is the header that names a request, in replies and in logs.
const HeaderRequestID = "X-Request-Id"

// NewRequestID returns a name for a request: 16 random hex digits.
func NewRequestID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
