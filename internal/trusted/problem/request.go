package problem

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"regexp"
)

// HeaderRequestID is the header that names a request, in replies and in logs.
const HeaderRequestID = "X-Request-Id"

var goodRequestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// NewRequestID returns a name for a request: 16 random hex digits.
func NewRequestID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// NameRequest sets the request's id on the reply and returns it: the client's
// own where it is a decent one, else a new one.
func NameRequest(w http.ResponseWriter, r *http.Request) string {
	id := r.Header.Get(HeaderRequestID)
	if !goodRequestID.MatchString(id) {
		id = NewRequestID()
	}
	w.Header().Set(HeaderRequestID, id)
	return id
}
