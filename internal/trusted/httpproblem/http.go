package httpproblem

import (
	"encoding/json"
	"net/http"
	"regexp"

	"cupel.dev/cupel/api/problem"
)

var goodRequestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Write answers an HTTP request with err, which is not nil, as the error body.
func Write(w http.ResponseWriter, requestID string, err error) {
	p := *problem.From(err)
	p.RequestID = requestID

	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(p.Kind.Status())
	_ = json.NewEncoder(w).Encode(&p)
}

// NameRequest sets the request's id on the reply and returns it: the client's
// own where it is a decent one, else a new one.
func NameRequest(w http.ResponseWriter, r *http.Request) string {
	id := r.Header.Get(problem.HeaderRequestID)
	if !goodRequestID.MatchString(id) {
		id = problem.NewRequestID()
	}

	w.Header().Set(problem.HeaderRequestID, id)
	return id
}
