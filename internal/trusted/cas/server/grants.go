package server

import (
	"context"
	"net/http"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas"
)

// ask answers a call with what f makes of the request in its body. shape changes
// a refusal before it goes out; nil: nothing.
func ask[Request, Reply any](s *Server, c *call, status int, shape func(*problem.Error),
	f func(context.Context, cas.Caller, Request) (Reply, error),
) {
	var req Request
	if err := s.decode(c, &req); err != nil {
		s.refuse(c, err, shape)
		return
	}

	reply, err := f(c.r.Context(), c.caller(), req)
	if err != nil {
		s.refuse(c, err, shape)
		return
	}
	s.reply(c, status, reply, true)
}

// askOf answers a question about the session that the query names.
func askOf[Reply any](s *Server, c *call, f func(context.Context, cas.Caller, ident.SessionName) (Reply, error)) {
	name, err := sessionName(c.r.URL.Query().Get("session"))
	if err != nil {
		s.refuse(c, err, chain)
		return
	}

	reply, err := f(c.r.Context(), c.caller(), name)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}
	s.reply(c, http.StatusOK, reply, true)
}

// The owners' side of grants.

func (s *Server) makeGrant(c *call) { ask(s, c, http.StatusCreated, chain, s.cas.MakeGrant) }

func (s *Server) changeGrant(c *call) {
	ask(s, c, http.StatusOK, chain, func(ctx context.Context, who cas.Caller, req owners.GrantChange) (owners.Grant, error) {
		id, err := grantID(c)
		if err != nil {
			return owners.Grant{}, err
		}
		return s.cas.ChangeGrant(ctx, who, id, req)
	})
}

func (s *Server) withdrawGrant(c *call) {
	id, err := grantID(c)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}

	g, err := s.cas.WithdrawGrant(c.r.Context(), c.caller(), id)
	if err != nil {
		s.refuse(c, err, chain)
		return
	}
	s.reply(c, http.StatusOK, g, true)
}

// grantID is the grant that the path names.
func grantID(c *call) (owners.GrantID, error) {
	id, err := owners.ParseGrantID(c.r.PathValue("id"))
	if err != nil {
		return id, problem.New(problem.Invalid, ruleGrantID, "%w", err).Fix("list them: cupel session grants SESSION")
	}
	return id, nil
}

// The side of those who hold a grant's code or token.

func (s *Server) claim(c *call) { ask(s, c, http.StatusOK, nil, s.cas.Claim) }

func (s *Server) gone(c *call) {
	ask(s, c, http.StatusOK, nil, func(ctx context.Context, who cas.Caller, req owners.InstanceGone) (struct{}, error) {
		return struct{}{}, s.cas.Gone(ctx, who, req)
	})
}

func (s *Server) giveBack(c *call) {
	ask(s, c, http.StatusOK, nil, func(ctx context.Context, who cas.Caller, req owners.GiveBack) (struct{}, error) {
		return struct{}{}, s.cas.GiveBack(ctx, who, req)
	})
}
