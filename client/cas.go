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
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/audit"
	"cupel.dev/cupel/internal/trusted/minrate"
	"cupel.dev/cupel/internal/trusted/wire"
)

// DefaultPort is the port of a CAS's owners' API.
const DefaultPort = "8081"

// Pin is what is remembered of an attested CAS.
type Pin struct {
	// Identity is the hash of the CAS's identity key.
	Identity ident.KeyHash `json:"identity"`
	// Head is the newest end of its audit log that was seen.
	Head owners.SignedHead `json:"head"`
}

// CASOptions are all optional.
type CASOptions struct {
	// Certificate identifies the caller; only its key counts. Without one the
	// caller is the public.
	Certificate *tls.Certificate
	// Pin is what an earlier Attest learned. Without it only Attest works.
	Pin *Pin
	// Save is called with what has to be remembered, whenever a reply moved it,
	// before the reply is handed out; its error fails the call.
	Save func(Pin) error
	// Patience is how long calls that did not reach the CAS are tried again,
	// with growing pauses; 0 means not at all. A CAS that took a call has a minute to
	// begin with its answer, however short that is: it may be a loaded one.
	Patience time.Duration
	// RefusedAtOnce gives up at once where the connection is refused, or no host has
	// the name: that is no matter of patience with an address that was never right.
	RefusedAtOnce bool
	// Waiting, where it is set, is called once, with why, for each call that does not reach
	// the CAS at first and whose patience ends before its context does.
	Waiting func(why error)
	// Now is the clock by which certificates and evidence are judged; nil: time.Now.
	Now func() time.Time
}

// CAS is a connection to one CAS. An answer of which not each 128 KiB, or the rest, come
// within half a minute is given up.
type CAS struct {
	addr ident.Address
	opts CASOptions
	http *http.Client

	// keeping is held while pin moves, over the calls that this takes; mu guards
	// pin itself.
	keeping sync.Mutex
	mu      sync.Mutex
	pin     Pin // zero Identity: not attested
}

// NewCAS returns a client of the CAS at addr, HOST[:PORT]. It connects to nobody.
//
// Errors: as of [Address].
func NewCAS(addr ident.Address, opts CASOptions) (*CAS, error) {
	host, err := Address(addr)
	if err != nil {
		return nil, err
	}

	if opts.Now == nil {
		opts.Now = time.Now
	}

	c := &CAS{addr: host, opts: opts}
	if opts.Pin != nil {
		c.pin = *opts.Pin
	}

	conf := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The chain is checked by VerifyConnection, against the pin: nothing
		// that public authorities certify would help.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection:   c.verifyConnection,
	}

	if opts.Certificate != nil {
		conf.Certificates = []tls.Certificate{*opts.Certificate}
	}

	c.http = &http.Client{
		Transport: &minrate.Transport{Wait: minrate.Wait, Transport: &http.Transport{
			TLSClientConfig:        conf,
			TLSHandshakeTimeout:    connectTimeout(opts.Patience),
			ResponseHeaderTimeout:  answerTimeout,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			DialContext:            (&net.Dialer{Timeout: connectTimeout(opts.Patience)}).DialContext,
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Address returns HOST[:PORT] with the port that it leaves out.
//
// Errors: invalid with cas_address.
func Address(addr ident.Address) (ident.Address, error) {
	bad := func(err error) *problem.Error {
		return problem.New(problem.Invalid, ruleCASAddress, "the CAS's address is %w", err).Want("HOST[:PORT]")
	}

	given := strings.TrimSpace(string(addr))
	if strings.ContainsAny(given, "/@?# ") || given == "" {
		return "", bad(errors.New("not a host name or address"))
	}

	if _, port, err := net.SplitHostPort(given); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", bad(fmt.Errorf("one with the port %.20q", port)).Fix("give a port from 1 to 65535, or none: then it is %s", DefaultPort)
		}
		return ident.Address(given), nil
	}

	host := net.JoinHostPort(strings.Trim(given, "[]"), DefaultPort)
	if _, _, err := net.SplitHostPort(host); err != nil {
		return "", bad(err)
	}

	return ident.Address(host), nil
}

// Address is the CAS's HOST:PORT.
func (c *CAS) Address() ident.Address { return c.addr }

// Pin is what the client knows about the CAS by now; false before Attest.
func (c *CAS) Pin() (Pin, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pin, !c.pin.Identity.IsZero()
}

// Close drops idle connections.
func (c *CAS) Close() { c.http.CloseIdleConnections() }

// verifyConnection ends the handshake with anyone but the pinned CAS. Before
// Attest there is no pin: then it checks the chain's form, and Attest's caller
// learns whose it is.
func (c *CAS) verifyConnection(cs tls.ConnectionState) error {
	id, err := wire.VerifyCASChain(cs.PeerCertificates, c.opts.Now())
	if err != nil {
		return err
	}

	if pin, ok := c.Pin(); ok && id.Hash != pin.Identity {
		return otherIdentity(c.addr, id.Hash, pin.Identity)
	}

	return nil
}

func otherIdentity(addr ident.Address, got, want ident.KeyHash) error {
	return problem.New(problem.Unauthenticated, problem.RuleCASIdentity, "another CAS answers at %s: its identity key is %s", addr, got).
		Want("%s, which was attested before", want).
		Fix("find out why the CAS changed; to trust the new one on purpose, attest it anew after removing the pin (cupel cas attest --forget)")
}

// casCall is one request and what is read of its reply.
type casCall struct {
	method   string
	path     string
	query    url.Values
	body     []byte
	status   int // of success; 0: 200
	out      any
	identity *wire.CASIdentity  // set to who answered
	head     *owners.SignedHead // set to the verified head
	unpinned bool               // allowed before Attest; remembers nothing
	aside    bool               // remembers nothing: part of checking the log

	// look is how to find out whether it was done, of a call that does or says something
	// else the second time.
	look string
}

// connectTimeout is how long a connection may take to come about: no longer than a
// CAS that does not answer is waited for.
func connectTimeout(patience time.Duration) time.Duration {
	const most = 10 * time.Second
	if patience <= 0 {
		return most
	}
	return min(max(patience, time.Second), most)
}

// answerTimeout is how long the answer of a CAS that took a call may take to begin. Then
// it has to keep a pace.
const answerTimeout = time.Minute

// maxCASReply bounds what is read of one reply.
const maxCASReply = 64 << 20

// do makes the call, again and again within the client's patience while the CAS
// can't be reached or takes its answer back. Most calls do no more the second time (an
// upload of what is the current version changes nothing). One that would, or whose second
// answer would mislead, is not made again where it may have reached the CAS.
func (c *CAS) do(ctx context.Context, q casCall) error {
	pin, ok := c.Pin()
	if !ok && !q.unpinned {
		return problem.New(problem.Unauthenticated, problem.RuleCASNotAttested, "the CAS at %s was not attested yet", c.addr).
			Fix("run: cupel cas attest %s", c.addr)
	}

	if q.look != "" { // over one that the CAS closed meanwhile it would seem to be sent
		c.http.CloseIdleConnections()
	}

	deadline := time.Now().Add(c.opts.Patience)
	told := false

	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := c.once(ctx, q, pin)

		var unreached *unreachedError
		if !errors.As(err, &unreached) {
			return err
		}

		if q.look != "" && unreached.sent {
			return unreached.lost(c.addr, q.look)
		}

		if noTLS(err) {
			return problem.New(problem.Unavailable, ruleCASAddress, "what answers at %s speaks no TLS, so it is no CAS", c.addr).
				Want("%s", ownersAPI).Fix("check the address, and that nothing stands before the CAS which ends TLS")
		}

		if c.opts.RefusedAtOnce && unreached.nobodyThere() {
			return unreached.refused(c.addr)
		}

		if time.Now().Add(pause).After(deadline) {
			return unreached.problem(c.addr, c.opts.Patience)
		}

		ends, ok := ctx.Deadline()
		if waiting := c.opts.Waiting; waiting != nil && !told && (!ok || ends.After(deadline)) {
			told = true
			waiting(unreached.err)
		}

		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// ownersAPI is what an address has to be of.
const ownersAPI = "a CAS's API for owners; its port is " + DefaultPort + " unless its operator chose another"

// noTLS reports whether something else than TLS came back, as it will again.
func noTLS(err error) bool {
	_, record := errors.AsType[tls.RecordHeaderError](err)
	return record || errors.Is(err, http.ErrSchemeMismatch)
}

// notOwners says of a refusal that no owners' API gives what answers in its place: every
// path that this client asks for is there.
func notOwners(p *problem.Error, addr ident.Address) *problem.Error {
	switch p.Rule {
	case problem.RulePath:
		return problem.New(problem.NotFound, ruleCASAddress, "what answers at %s is a CAS, but not its API for owners: perhaps the one for instances", addr).
			Want("%s", ownersAPI).Fix("give the port of the owners' API; a CAS of an older release may lack what was asked for")
	case problem.RuleReply:
		return problem.New(problem.Unavailable, ruleCASAddress, "what answers at %s is no CAS: %s", addr, p.Actual).
			Want("%s", ownersAPI).Fix("check the address, and that nothing else answers there, such as a proxy")
	}
	return p
}

// unreachedError is a call that got no reply. It may have reached the CAS if it was sent.
type unreachedError struct {
	err  error
	sent bool
}

func (e *unreachedError) Error() string { return e.err.Error() }
func (e *unreachedError) Unwrap() error { return e.err }

func (e *unreachedError) problem(addr ident.Address, patience time.Duration) error {
	p := problem.New(problem.Unavailable, problem.RuleCASUnreachable, "the CAS at %s does not answer: %w", addr, e.err).
		Want("an answer within %s", problem.Duration(patience)).
		Fix("check the address, and that the CAS runs; then try again; if it is at another one now: 'cupel cas attest HOST:PORT' (without a port it is %s), then give --cas HOST:PORT, "+
			"or have it remembered: cupel session create … --update --cas HOST:PORT", DefaultPort)

	slow, ok := errors.AsType[*minrate.Error](e.err)
	switch {
	case ok:
		p.Actual = fmt.Sprintf("the CAS at %s answers too slowly: %s", addr, slow)
		p.Expected = slow.Want()
	case e.late():
		p.Expected = "the beginning of an answer within " + problem.Duration(answerTimeout) +
			" of taking the request; --wait doesn't shorten that: the CAS may be at work"
	case patience == 0:
		p.Expected = "an answer"
	}

	return p
}

// late reports whether the CAS took the call, and did not answer in time.
func (e *unreachedError) late() bool {
	timeout, ok := errors.AsType[net.Error](e.err)
	return e.sent && ok && timeout.Timeout()
}

// lost is the problem of a call that may have been done.
func (e *unreachedError) lost(addr ident.Address, look string) error {
	return problem.New(problem.Unavailable, ruleCASAnswerLost, "the CAS at %s was asked, and its answer was lost: %w; it may have done what it was asked for", addr, e.err).
		Want("an answer").Fix("%s", look)
}

func (e *unreachedError) nobodyThere() bool {
	return errors.Is(e, syscall.ECONNREFUSED) || e.noSuchHost()
}

// noSuchHost is false where nobody could be asked for the name.
func (e *unreachedError) noSuchHost() bool {
	dns, ok := errors.AsType[*net.DNSError](e)
	return ok && dns.IsNotFound
}

// refused is the problem of an address where nothing listens, or that is no host's.
func (e *unreachedError) refused(addr ident.Address) error {
	if e.noSuchHost() {
		return problem.New(problem.Unavailable, problem.RuleCASUnreachable, "no host has the name in %s: %w", addr, e.err).
			Want("the address of a CAS").
			Fix("check the name; if it is about to be made known, wait for it with --wait 15s")
	}
	return problem.New(problem.Unavailable, problem.RuleCASUnreachable, "nothing listens at %s: %w", addr, e.err).
		Want("a CAS; its owners' port is %s unless its operator chose another", DefaultPort).
		Fix("check the address; if the CAS is about to start, wait for it with --wait 15s")
}

// once makes the call one time, and checks of the reply, in this order: who answered, that it
// is no refusal, the audit head, and what it says.
func (c *CAS) once(ctx context.Context, q casCall, seen Pin) error {
	u := url.URL{
		Scheme:   "https",
		Host:     string(c.addr),
		Path:     q.path,
		RawQuery: q.query.Encode(),
	}

	var sent atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { sent.Store(true) }})
	req, err := http.NewRequestWithContext(traced, q.method, u.String(), bytes.NewReader(q.body))
	if err != nil {
		return problem.New(problem.Invalid, ruleCASAddress, "%w", err)
	}

	id := problem.NewRequestID()
	req.Header.Set(owners.HeaderRequestID, id)
	if q.body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}

	res, err := c.http.Do(req)
	if err != nil {
		return transportError(ctx, err, sent.Load())
	}
	defer res.Body.Close() // read to its end below, or given up

	body, err := io.ReadAll(io.LimitReader(res.Body, maxCASReply+1))
	if err != nil {
		return transportError(ctx, err, sent.Load())
	}
	if len(body) > maxCASReply {
		return problem.New(problem.Unavailable, problem.RuleReply, "the CAS at %s answers more than %d bytes", c.addr, maxCASReply)
	}

	who, err := wire.VerifyCASChain(res.TLS.PeerCertificates, c.opts.Now())
	if err != nil {
		return err
	}
	if q.identity != nil {
		*q.identity = who
	}

	if want := max(q.status, http.StatusOK); res.StatusCode != want {
		p := notOwners(problem.Read(res.StatusCode, body), c.addr)
		if p.RequestID == "" {
			p.RequestID = id
		}
		if seen.Identity.IsZero() {
			p.Source = problem.UnattestedCAS
		}
		return p
	}

	if res.Header.Get(owners.HeadHeader) == "" {
		return problem.New(problem.Denied, ruleAuditHead, "the reply of what answers at %s carries no audit head, as a CAS's does", c.addr).
			Want("%s", ownersAPI).Fix("check the address: an app may listen there. If it is right, do not use this CAS")
	}

	head, err := checkHead(who, res.Header, seen)
	if err != nil {
		return err
	}
	if q.head != nil {
		*q.head = head
	}

	if err := json.Unmarshal(body, q.out); err != nil {
		return problem.BadReply("the CAS at "+string(c.addr), body, q.out, err)
	}

	if q.unpinned || q.aside {
		return nil
	}
	return c.keep(ctx, who, head)
}

// transportError tells refusals during the handshake from a CAS out of reach.
func transportError(ctx context.Context, err error, sent bool) error {
	if refusal, ok := errors.AsType[*problem.Error](err); ok {
		return refusal
	}

	if ctx.Err() != nil {
		return ctx.Err()
	}

	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return &unreachedError{err, sent}
}

// checkHead verifies a reply's audit head and holds it against what was seen
// before the call was made.
func checkHead(who wire.CASIdentity, h http.Header, seen Pin) (owners.SignedHead, error) {
	head, err := owners.HeadFrom(h.Get(owners.HeadHeader))
	if err != nil {
		return head, problem.New(problem.Denied, ruleAuditHead, "the reply's audit head can't be read (%d bytes)", len(h.Get(owners.HeadHeader))).Fix("do not use this CAS")
	}

	if err := audit.VerifyHead(who.Key, head); err != nil {
		return head, err
	}

	return head, follows(head, seen.Head)
}

// follows refuses a head that is older than one that was seen, or another of the
// same number.
func follows(head, seen owners.SignedHead) error {
	if head.Seq < seen.Seq {
		return problem.New(problem.Denied, problem.RuleAuditLogOlder, "the CAS's log ends at entry %d", head.Seq).
			Want("entry %d or later, which this CAS has shown before", seen.Seq).
			Fix("do not use this CAS: its state was put back to an earlier one. Ask whoever runs it, and only if the answer satisfies you, attest it anew: cupel cas attest with --forget")
	}

	if head.Seq == seen.Seq && head.Seq != 0 && head.Hash != seen.Hash {
		return problem.New(problem.Denied, problem.RuleAuditLogForked, "the CAS's log has hash %s at entry %d", head.Hash, head.Seq).
			Want("%s, which this CAS has shown before", seen.Hash).
			Fix("do not use this CAS: it shows different logs")
	}

	return nil
}

// keep remembers a newer head and has it saved, once the log was seen to lead to
// it: a log that was put back and then grew past what we saw must not take the
// place of our proof against it.
func (c *CAS) keep(ctx context.Context, who wire.CASIdentity, head owners.SignedHead) error {
	c.keeping.Lock()
	defer c.keeping.Unlock()

	pin, known := c.Pin()
	if known && head.Seq == pin.Head.Seq {
		return follows(head, pin.Head)
	}
	if known && head.Seq < pin.Head.Seq {
		return nil // another call was faster; this one was held against what it knew when it began
	}

	if known && pin.Head.Seq > 0 {
		if _, err := c.walk(ctx, who, pin.Head, head, nil); err != nil {
			return err
		}
	}

	pin = Pin{Identity: who.Hash, Head: head}
	if c.opts.Save != nil {
		if err := c.opts.Save(pin); err != nil {
			return fmt.Errorf("remember the CAS's audit head: %w", err)
		}
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	c.pin = pin
	return nil
}
