package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// holderTimeout bounds one call of a Holder, connection and all; dialTimeout the
// time until somebody answers.
const (
	holderTimeout = 20 * time.Second
	dialTimeout   = 5 * time.Second
)

// maxHolderReply bounds what is read of one answer.
const maxHolderReply = 1 << 20

// Holder is who holds grants: mostly an operator's manager, or an owner who
// starts copies by hand. It talks to the instances' API of a CAS, with a key of
// its own. Nothing on the way is trusted: a call reaches the CAS of the identity
// that it names, or nobody.
//
// Every call makes its own connection, follows no redirect and ends in time. A
// CAS that can't be reached, or another that answers at its address, is
// Unavailable, so that a caller can tell that from what the CAS itself says.
//
// A Holder is safe for concurrent use.
type Holder struct {
	// Certificate has the key by which codes are claimed; only the key counts.
	Certificate tls.Certificate
	// Now is the clock by which the CAS's certificates are judged; nil: time.Now.
	Now func() time.Time
	// Dial connects, where addresses mean something else than they do here; nil:
	// over TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Claim turns a grant's code into its token, at the CAS that listens for
// instances at addr. The same key may ask again.
//
// Errors: internal with reply where the answer is of another grant; of the CAS: grant_code,
// grant_claimed, grant_ended, grant_provider.
func (h *Holder) Claim(ctx context.Context, addr ident.Address, code owners.GrantCode) (owners.ClaimReply, error) {
	var out owners.ClaimReply
	in := owners.Claim{Version: wire.ReleaseVersion, Code: code.String()}
	err := h.post(ctx, holderCall{
		addr: addr,
		cas:  code.CAS,
		path: wire.PathClaim,
		in:   in,
		out:  &out,
	})
	if err != nil {
		return owners.ClaimReply{}, err
	}

	if out.Grant != code.Grant || out.Token.IsZero() {
		return owners.ClaimReply{}, problem.New(problem.Internal, problem.RuleReply, "the CAS's answer to the claim is of another grant").
			Fix("ask whoever runs the CAS at %s", addr)
	}
	return out, nil
}

// Gone tells the CAS that an instance is no more, so that its place is free. Of the CAS:
// grant_ended, instance_unknown.
func (h *Holder) Gone(ctx context.Context, addr ident.Address, cas ident.KeyHash, token owners.GrantToken, instance ident.InstanceID) error {
	in := owners.InstanceGone{Version: wire.ReleaseVersion, Grant: token, Instance: instance}
	return h.post(ctx, holderCall{
		addr: addr,
		cas:  cas,
		path: wire.PathGone,
		in:   in,
		out:  &struct{}{},
	})
}

// GiveBack ends a grant. It is no error if it has ended.
func (h *Holder) GiveBack(ctx context.Context, addr ident.Address, cas ident.KeyHash, token owners.GrantToken) error {
	in := owners.GiveBack{Version: wire.ReleaseVersion, Grant: token}
	return h.post(ctx, holderCall{
		addr: addr,
		cas:  cas,
		path: wire.PathGiveBack,
		in:   in,
		out:  &struct{}{},
	})
}

// Reach connects to the CAS and answers nil if it is there: it asks for nothing.
func (h *Holder) Reach(ctx context.Context, addr ident.Address, cas ident.KeyHash) error {
	ctx, cancel := context.WithTimeout(ctx, holderTimeout)
	defer cancel()

	conn, err := h.dial(ctx, "tcp", string(addr))
	if err != nil {
		return holderUnreached(addr, err)
	}
	defer func() { _ = conn.Close() }()

	if err := tls.Client(conn, h.config(cas)).HandshakeContext(ctx); err != nil {
		return holderUnreached(addr, err)
	}

	return nil
}

func (h *Holder) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if h.Dial != nil {
		return h.Dial(ctx, network, addr)
	}
	return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, addr)
}

// holderCall is one request of a Holder.
type holderCall struct {
	addr ident.Address
	cas  ident.KeyHash // the one CAS that it is for
	path string
	in   any
	out  any
}

// post makes one request on a connection of its own.
func (h *Holder) post(ctx context.Context, q holderCall) error {
	body, err := json.Marshal(q.in)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, holderTimeout)
	defer cancel()

	target := url.URL{Scheme: "https", Host: string(q.addr), Path: q.path}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(body))
	if err != nil {
		return problem.New(problem.Invalid, ruleCASAddress, "%w", err).Want("HOST:PORT")
	}
	req.Header.Set("Content-Type", "application/json")

	transport := h.transport(q.cas)
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}).Do(req)
	if err != nil {
		return holderUnreached(q.addr, err)
	}
	defer func() { _ = res.Body.Close() }()

	reply, err := io.ReadAll(io.LimitReader(res.Body, maxHolderReply))
	if err != nil {
		return holderUnreached(q.addr, err)
	}
	if res.StatusCode != http.StatusOK {
		return problem.Read(res.StatusCode, reply)
	}
	if err := json.Unmarshal(reply, q.out); err != nil {
		return problem.New(problem.Internal, problem.RuleReply, "the answer of the CAS at %s to %s is not what it should be", q.addr, q.path)
	}
	return nil
}

// config is of a connection that only the CAS of that identity can answer.
func (h *Holder) config(cas ident.KeyHash) *tls.Config {
	now := h.Now
	if now == nil {
		now = time.Now
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{h.Certificate},
		// VerifyConnection checks the chain against the identity: names and public
		// authorities would prove nothing.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(cs tls.ConnectionState) error {
			who, err := wire.VerifyCASChain(cs.PeerCertificates, now())
			if err != nil {
				return err
			}
			if who.Hash != cas {
				return problem.New(problem.Unavailable, problem.RuleCASOther, "another CAS answers, with identity %s", who.Hash).Want("identity %s", cas)
			}
			return nil
		},
	}
}

func (h *Holder) transport(cas ident.KeyHash) *http.Transport {
	return &http.Transport{
		TLSClientConfig:        h.config(cas),
		DialContext:            h.dial,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true,
	}
}

// holderUnreached is the problem of a call that got no answer of the right CAS.
func holderUnreached(addr ident.Address, err error) error {
	why := err
	if u, ok := errors.AsType[*url.Error](err); ok {
		why = u.Err
	}
	p := problem.New(problem.Unavailable, problem.RuleCASUnreachable, "the CAS at %s does not answer: %w", addr, why).
		Fix("check the address where instances reach the CAS, and that it runs; then try again")
	if refusal, ok := errors.AsType[*problem.Error](err); ok {
		p.Rule = refusal.Rule
		p.Actual = "at " + string(addr) + ": " + refusal.Actual
		p.Expected = refusal.Expected
	}
	return p
}
