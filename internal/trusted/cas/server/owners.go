package server

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/openapi"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/wire"
)

// language is the newest version of the session language that is understood.
const language = "0.3"

// OwnersHandler is the owners' API. Bodies of refusals carry SCONE's message chain.
func (s *Server) OwnersHandler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(*call)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { f(s.begin(w, r)) })
	}

	handle("POST "+owners.PathLegacySession, s.putSession)
	handle("POST "+owners.PathSessions, s.putSession)
	handle("GET "+owners.PathLegacySession+"/{name...}", s.getSession)
	handle("GET "+owners.PathSessions+"/{name...}", s.getSessionOrInstances)
	handle("DELETE "+owners.PathSessions+"/{name...}", s.removeSession)
	handle("POST "+owners.PathGrants, s.makeGrant)
	handle("GET "+owners.PathGrants, func(c *call) { askOf(s, c, s.cas.Grants) })
	handle("PATCH "+owners.PathGrants+"/{id}", s.changeGrant)
	handle("DELETE "+owners.PathGrants+"/{id}", s.withdrawGrant)
	handle("POST "+owners.PathRotations, func(c *call) { ask(s, c, http.StatusOK, chain, s.cas.Rotate) })
	handle("GET "+owners.PathRotations, func(c *call) { askOf(s, c, s.cas.Rotations) })
	handle("POST "+owners.PathVolumeReset, func(c *call) { ask(s, c, http.StatusOK, chain, s.cas.ResetVolume) })
	handle("GET "+owners.PathRefusals, func(c *call) { askOf(s, c, s.cas.Refusals) })
	handle("GET "+owners.PathValues+"{ref...}", s.values)
	handle("GET "+owners.PathAttest, s.attest)
	handle("GET "+owners.PathVersion, s.versionInfo)
	handle("GET "+owners.PathLog, s.auditLog)
	handle("GET "+owners.PathHealth, s.health)
	handle("GET "+owners.PathOpenAPI, s.serveDoc(openapi.Owners))

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		switch {
		case r.Method == http.MethodHead: // ServeMux would take it for GET
			s.methodNotAllowed(s.begin(w, r), "GET, POST", chain)
		case pattern == "":
			s.refuseMux(s.begin(w, r), h, chain)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// chain makes sure that there is a message chain: SCONE's clients show it.
func chain(p *problem.Error) {
	if len(p.Msg) == 0 {
		p.Msg = []string{p.Error()}
	}
}

func (s *Server) putSession(c *call) {
	text, err := readBody(c, owners.MaxSession)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}

	created, err := s.cas.PutSession(c.r.Context(), c.caller(), text)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}
	s.reply(c, http.StatusCreated, created, true)
}

func (s *Server) getSessionOrInstances(c *call) {
	name, ok := strings.CutSuffix(c.r.PathValue("name"), owners.SuffixInstances)
	if !ok {
		s.getSession(c)
		return
	}

	session, err := sessionName(name)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}

	list, err := s.cas.Instances(c.r.Context(), c.caller(), session)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}
	s.reply(c, http.StatusOK, list, true)
}

func (s *Server) getSession(c *call) {
	name, err := sessionName(c.r.PathValue("name"))
	if err != nil {
		s.refuse(c, err, chain)
		return
	}

	var hash *ident.Digest
	if text := c.r.URL.Query().Get("hash"); text != "" {
		h, err := ident.ParseDigest(text)
		if err != nil {
			s.refuse(c, problem.New(problem.Invalid, problem.RuleSessionHash, "%w", err), chain)
			return
		}
		hash = &h
	}

	session, err := s.cas.GetSession(c.r.Context(), c.caller(), name, hash)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}
	s.reply(c, http.StatusOK, session, true)
}

func (s *Server) removeSession(c *call) {
	name, err := sessionName(c.r.PathValue("name"))
	if err != nil {
		s.refuse(c, err, chain)
		return
	}

	removed, err := s.cas.RemoveSession(c.r.Context(), c.caller(), name)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}
	s.reply(c, http.StatusOK, removed, true)
}

// sessionName reads the name of a session.
func sessionName(text string) (ident.SessionName, error) {
	name, err := ident.ParseSessionName(text)
	if err != nil {
		return "", problem.New(problem.Invalid, problem.RuleSessionName, "%w", err)
	}
	return name, nil
}

func (s *Server) values(c *call) {
	ref, err := parseValueRef(c.r.PathValue("ref"))
	if err != nil {
		s.refuse(c, err, chain)
		return
	}

	values, err := s.cas.Values(c.r.Context(), c.caller(), ref)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}

	if ref.Secret != "" {
		s.reply(c, http.StatusOK, values.Values[ref.Secret], true)
		return
	}
	s.reply(c, http.StatusOK, values, true)
}

// parseValueRef reads session=NAME[,secret=S][,session_hash=HEX], in any order.
func parseValueRef(text string) (cas.ValueRef, error) {
	var ref cas.ValueRef
	bad := func(format string, args ...any) (cas.ValueRef, error) {
		return cas.ValueRef{}, problem.New(problem.Invalid, ruleValueReference, "%w", fmt.Errorf(format, args...)).
			Want("session=NAME[,secret=NAME][,session_hash=HEX]")
	}
	seen := map[string]bool{}

	for part := range strings.SplitSeq(strings.TrimPrefix(text, "/"), ",") {
		key, value, _ := strings.Cut(part, "=")
		if value == "" || seen[key] {
			return bad("%q is empty or given twice", key)
		}
		seen[key] = true

		switch key {
		case "session":
			name, err := ident.ParseSessionName(value)
			if err != nil {
				return bad("%w", err)
			}
			ref.Session = name
		case "secret":
			ref.Secret = value
		case "session_hash":
			h, err := ident.ParseDigest(value)
			if err != nil {
				return bad("%w", err)
			}
			ref.Hash = &h
		default:
			return bad("%q is not known", key)
		}
	}

	if ref.Session == "" {
		return bad("no session is named")
	}
	return ref, nil
}

func (s *Server) attest(c *call) {
	raw, err := hex.DecodeString(c.r.URL.Query().Get("nonce"))
	if err != nil || len(raw) != 32 {
		s.refuse(c, problem.New(problem.Invalid, ruleNonce, "a nonce of %d characters", len(c.r.URL.Query().Get("nonce"))).
			Want("64 hex digits that were never used before"), chain)
		return
	}

	if s.evidence == nil {
		s.refuse(c, problem.New(problem.Unavailable, ruleNoEvidence, "this CAS was started without a platform that attests it").
			Fix("start it through cupeld, or on a platform with a TEE"), chain)
		return
	}

	id := s.cas.Identity()
	ev, err := s.evidence(c.r.Context(), wire.CASReportData([32]byte(raw), id.Hash()))
	if err != nil {
		s.refuse(c, err, chain)
		return
	}

	s.reply(c, http.StatusOK, owners.Attestation{
		Version:             owners.Version,
		Evidence:            ev,
		IdentityCertificate: id.PEM(),
		Time:                s.cas.Now().UTC(),
		SimulationRoot:      s.simRoot,
		Head:                s.cas.Head(),
	}, true)
}

func (s *Server) versionInfo(c *call) {
	s.reply(c, http.StatusOK, owners.VersionInfo{
		Version:  s.version,
		API:      owners.Version,
		Release:  wire.ReleaseVersion,
		Language: language,
	}, true)
}

func (s *Server) health(c *call) {
	if err := s.cas.Healthy(); err != nil {
		s.refuse(c, err, chain)
		return
	}
	s.reply(c, http.StatusOK, owners.Health{Version: owners.Version, Status: "ok"}, true)
}

func (s *Server) auditLog(c *call) {
	since, err := number(c.r, "since", 0, 1<<62)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}
	limit, err := number(c.r, "limit", owners.MaxLogPage, owners.MaxLogPage)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}

	entries, head, err := s.cas.Log(c.r.Context(), since, int(limit))
	if err != nil {
		s.refuse(c, err, chain)
		return
	}

	if entries == nil {
		entries = []owners.Entry{}
	}
	s.reply(c, http.StatusOK, owners.LogPage{Version: owners.Version, Entries: entries, Head: head}, true)
}

// number is a number of the query, absent where it is not there.
func number(r *http.Request, name string, absent, most uint64) (uint64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return absent, nil
	}

	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > most {
		return 0, problem.New(problem.Invalid, ruleQuery, "%s=%.80s", name, text).Want("a number up to %d", most)
	}
	return n, nil
}
