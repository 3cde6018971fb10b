package server

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"cupel.dev/cupel/api/openapi"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// InstancesHandler is the instances' API. It needs the TLS connection's state.
func (s *Server) InstancesHandler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(*call)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { f(s.begin(w, r)) })
	}

	handle("POST "+wire.PathRelease, s.release)
	handle("POST "+wire.PathTag, s.tag)
	handle("POST "+wire.PathKeepAlive, s.keepAlive)
	handle("POST "+wire.PathExit, s.exit)
	handle("POST "+wire.PathClaim, s.claim)
	handle("POST "+wire.PathGone, s.gone)
	handle("POST "+wire.PathGiveBack, s.giveBack)
	handle("GET "+owners.PathOpenAPI, s.serveDoc(openapi.Instances))

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		switch {
		case r.Method == http.MethodHead:
			s.methodNotAllowed(s.begin(w, r), "GET, POST", nil)
		case pattern == "":
			s.refuseMux(s.begin(w, r), h, nil)
		default:
			h.ServeHTTP(w, r) // no pattern has wildcards to fill in
		}
	})
}

func (s *Server) release(c *call) {
	body, err := readBody(c, maxRelease)
	if err != nil {
		s.refuse(c, err, nil)
		return
	}
	req, err := decodeRelease(body)
	if err != nil {
		s.refuse(c, err, nil)
		return
	}
	exporter, err := wire.Exporter(c.r.TLS)
	if err != nil {
		s.refuse(c, problem.New(problem.Invalid, ruleChannelBinding, "%w", err), nil)
		return
	}

	reply, err := s.cas.Release(c.r.Context(), c.caller(), exporter, req)
	if err != nil {
		s.refuse(c, err, nil)
		return
	}
	s.reply(c, http.StatusOK, reply, false)
}

func (s *Server) tag(c *call) {
	var req wire.TagRequest
	if err := s.decode(c, &req); err != nil {
		s.refuse(c, err, nil)
		return
	}

	reply, err := s.cas.Commit(c.r.Context(), c.caller(), req)
	if err != nil {
		s.refuse(c, err, nil)
		return
	}
	s.reply(c, http.StatusOK, reply, false)
}

func (s *Server) keepAlive(c *call) {
	var req wire.KeepAlive
	if err := s.decode(c, &req); err != nil {
		s.refuse(c, err, nil)
		return
	}

	reply, err := s.cas.KeepAlive(c.r.Context(), c.caller(), req)
	if err != nil {
		s.refuse(c, err, nil)
		return
	}
	s.reply(c, http.StatusOK, reply, true)
}

func (s *Server) exit(c *call) {
	var req wire.Exit
	if err := s.decode(c, &req); err != nil {
		s.refuse(c, err, nil)
		return
	}
	if err := s.cas.Exit(c.r.Context(), c.caller(), req); err != nil {
		s.refuse(c, err, nil)
		return
	}
	s.reply(c, http.StatusOK, struct{}{}, true)
}

// decode reads a request's body into v.
func (s *Server) decode(c *call, v any) error {
	body, err := readBody(c, maxRelease)
	if err != nil {
		return err
	}
	return strictJSON(body, v)
}

// decodeRelease reads the body of a release request; its bytes come from
// strangers. Meaning is checked by the CAS.
func decodeRelease(body []byte) (*wire.ReleaseRequest, error) {
	if req, ok := fastRelease(body); ok {
		return req, nil
	}

	var req wire.ReleaseRequest
	if err := strictJSON(body, &req); err != nil {
		return nil, err
	}
	return &req, nil
}

// strictJSON decodes one JSON value, and nothing that the protocol doesn't know.
func strictJSON(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return problem.New(problem.Invalid, ruleJSON, "%w", problem.NotJSON(err)).Fix("send the request as %s describes it", owners.PathOpenAPI)
	}

	if _, err := d.Token(); err != io.EOF {
		return problem.New(problem.Invalid, ruleJSON, "something follows the JSON value")
	}
	return nil
}
