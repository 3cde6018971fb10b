package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/cas"
	"cupel.dev/cupel/internal/trusted/connlimit"
	"cupel.dev/cupel/internal/trusted/httpproblem"
)

// Config is what a Server is made of. CAS and Log are required.
type Config struct {
	CAS *cas.CAS
	Log *slog.Logger
	// Evidence gets the CAS's own evidence; nil: there is none, and nobody can
	// attest this CAS.
	Evidence func(ctx context.Context, reportData evidence.Data64) (evidence.Evidence, error)
	// SimulationRoot in PEM, where the CAS accepts simulated platforms. Shown, never trusted.
	SimulationRoot string
	// Version of the software.
	Version string
	// MaxConnections is how many connections each listener has open at once, those
	// that still shake hands included; 0: 4096. Where it gets tight, those that
	// are idle or dawdle make room for who comes.
	MaxConnections int
}

// Times and sizes that a peer can't exceed.
const (
	headerTimeout  = 10 * time.Second // handshake, and each request's header
	requestTimeout = 30 * time.Second
	replyTimeout   = 60 * time.Second
	idleTimeout    = 3 * time.Minute
	drainTimeout   = 10 * time.Second
	maxHeader      = 16 << 10
	// maxRelease is the most bytes of a request of the instances' API: a quote
	// and its collateral are some 20 kB.
	maxRelease = 1 << 20
	// trustedLength is the most memory that a mere announcement of a body gets.
	trustedLength = 64 << 10
)

// Server answers both APIs.
type Server struct {
	cas      *cas.CAS
	log      *slog.Logger
	evidence func(context.Context, evidence.Data64) (evidence.Evidence, error)
	simRoot  string
	version  string
	maxConns int
}

// New returns a Server that listens nowhere yet.
func New(cfg Config) *Server {
	s := &Server{
		cas:      cfg.CAS,
		log:      cfg.Log,
		evidence: cfg.Evidence,
		simRoot:  cfg.SimulationRoot,
		version:  cfg.Version,
		maxConns: cfg.MaxConnections,
	}

	if s.maxConns <= 0 {
		s.maxConns = 4096
	}
	return s
}

// ServeOwners serves the owners' API on l until ctx ends.
func (s *Server) ServeOwners(ctx context.Context, l net.Listener) error {
	return s.serve(ctx, l, s.OwnersHandler(), s.tlsConfig(tls.RequestClientCert, nil))
}

// ServeInstances serves the instances' API on l until ctx ends.
func (s *Server) ServeInstances(ctx context.Context, l net.Listener) error {
	return s.serve(ctx, l, s.InstancesHandler(), s.tlsConfig(tls.RequireAnyClientCert, requireP256))
}

// tlsConfig is TLS 1.3 alone (RFC 8446), with the CAS's certificate of the hour.
func (s *Server) tlsConfig(auth tls.ClientAuthType, verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             auth,
		VerifyConnection:       verify,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.cas.Identity().Leaf(s.cas.Now())
		},
	}
}

// requireP256 holds instances to one kind of key.
func requireP256(cs tls.ConnectionState) error {
	key, ok := cs.PeerCertificates[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return errors.New("the client's key is not ECDSA P-256")
	}
	return nil
}

// serve answers on l until ctx ends; requests under way are finished, for a while.
func (s *Server) serve(ctx context.Context, l net.Listener, h http.Handler, tc *tls.Config) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      replyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		Protocols:         &protocols,
		ErrorLog:          log.New(io.Discard, "", 0), // failed handshakes are the peers' business
	}

	limited := connlimit.Limit(l, s.maxConns)
	srv.ConnState = limited.Observe
	done := make(chan error, 1)
	go func() { done <- srv.Serve(tls.NewListener(limited, tc)) }()

	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}

	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := srv.Shutdown(drain); err != nil {
		return errors.Join(fmt.Errorf("shut down %s: %w", l.Addr(), err), srv.Close())
	}
	return nil
}

// call is one request on its way.
type call struct {
	w  http.ResponseWriter
	r  *http.Request
	id string
}

// caller is who asks.
func (c *call) caller() cas.Caller {
	return cas.Caller{Key: peerKey(c.r.TLS), Request: c.id, Address: connlimit.Peer(c.r.RemoteAddr)}
}

// peerKey is the hash of the key that the peer proved to hold; zero: none.
func peerKey(cs *tls.ConnectionState) (k ident.KeyHash) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return k
	}
	return ident.HashCertKey(cs.PeerCertificates[0])
}

// begin gives the request an id, the client's own where it is a decent one.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) *call {
	id := httpproblem.NameRequest(w, r)
	h := w.Header()
	h.Set(owners.HeaderVersion, s.version)
	h.Set("Cache-Control", "no-store")
	return &call{w: w, r: r, id: id}
}

// reply writes v as JSON. head says whether the audit head goes into the header.
func (s *Server) reply(c *call, status int, v any, head bool) {
	b, err := json.Marshal(v)
	if err != nil {
		s.refuse(c, fmt.Errorf("marshal reply: %w", err), nil)
		return
	}

	if head {
		c.w.Header().Set(owners.HeadHeader, owners.EncodeHead(s.cas.Head()))
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(status)
	_, _ = c.w.Write(b) // the peer may be gone: nothing to do about it
}

// refuse writes err. shape changes the error before it goes out.
func (s *Server) refuse(c *call, err error, shape func(*problem.Error)) {
	p := *problem.From(err)
	if p.Kind == problem.Internal {
		s.log.Error("request failed", "method", c.r.Method, "path", c.r.URL.Path, "request_id", c.id, "error", err)
	} else {
		s.log.Debug("request refused", "method", c.r.Method, "path", c.r.URL.Path, "request_id", c.id, "rule", p.Rule)
	}

	if shape != nil {
		shape(&p)
	}
	c.w.Header().Set(owners.HeadHeader, owners.EncodeHead(s.cas.Head()))
	httpproblem.Write(c.w, c.id, &p)
}

// refuseMux answers what no route matches: ServeMux knows whether that is a 404
// or a 405, and writes neither in our form.
func (s *Server) refuseMux(c *call, h http.Handler, shape func(*problem.Error)) {
	probe := &statusProbe{header: http.Header{}, status: http.StatusNotFound}
	h.ServeHTTP(probe, c.r)

	p := problem.New(problem.NotFound, problem.RulePath, "there is nothing at %s", c.r.URL.Path).Fix("read %s", owners.PathOpenAPI)
	switch {
	case probe.status == http.StatusMethodNotAllowed:
		s.methodNotAllowed(c, probe.header.Get("Allow"), shape)
		return
	case probe.status >= 300 && probe.status < 400:
		http.Redirect(c.w, c.r, probe.header.Get("Location"), probe.status)
		return
	}
	s.refuse(c, p, shape)
}

// methodNotAllowed is the one status that no kind of problem has.
func (s *Server) methodNotAllowed(c *call, allow string, shape func(*problem.Error)) {
	p := problem.New(problem.Invalid, ruleMethod, "%s at %s", c.r.Method, c.r.URL.Path).Want("%s", allow)
	p.RequestID = c.id
	if shape != nil {
		shape(p)
	}

	c.w.Header().Set("Allow", allow)
	s.reply(c, http.StatusMethodNotAllowed, p, true)
}

// statusProbe takes what a handler would answer.
type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header         { return p.header }
func (p *statusProbe) WriteHeader(status int)      { p.status = status }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }

// readBody reads at most limit bytes.
func readBody(c *call, limit int64) ([]byte, error) {
	var b bytes.Buffer
	if n := c.r.ContentLength; n > 0 {
		b.Grow(int(min(n, trustedLength)) + bytes.MinRead)
	}

	_, err := b.ReadFrom(http.MaxBytesReader(c.w, c.r.Body, limit))
	if err == nil {
		return b.Bytes(), nil
	}

	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, problem.New(problem.Invalid, ruleBodyTooLarge, "the request has more than %d bytes", limit)
	}
	return nil, problem.New(problem.Invalid, problem.RuleBody, "read the request: %w", err)
}

// serveDoc answers with an OpenAPI document.
func (s *Server) serveDoc(doc string) func(*call) {
	return func(c *call) {
		c.w.Header().Set("Content-Type", "application/yaml")
		c.w.Header().Set(owners.HeadHeader, owners.EncodeHead(s.cas.Head()))
		_, _ = io.WriteString(c.w, doc)
	}
}
