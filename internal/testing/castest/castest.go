// Package castest drives a CAS from outside, for tests and benchmarks: owners
// and instances over real TLS, evidence from a simulated platform, state in real
// SQLite. It lies outside of internal/trusted, which may not know simtee.
//
// It plays instances on purpose: each can lie about what it is, so that refusals
// can be seen. An Env may be used by several goroutines; an Owner and an Instance too,
// a Conn by one at a time.
//
// Begin with Start in env.go, which runs a CAS; castest.go has who talks to it, and
// grant.go the grants without which nothing is released.
package castest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/selfsigned"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Key is a P-256 key with a self-signed certificate: an owner's identity, or an
// instance's.
type Key struct {
	Private *ecdsa.PrivateKey
	Cert    tls.Certificate
	Hash    ident.KeyHash
}

// NewKey makes one.
func NewKey() (*Key, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}

	der, err := selfsigned.Certificate{Name: "castest", NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}.Sign(key)
	if err != nil {
		return nil, err
	}

	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}

	return &Key{key, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, ident.HashCertKey(leaf)}, nil
}

// tlsConfig checks only that the server's chain ends in the pinned identity, as
// the real clients do; a zero identity checks nothing.
func tlsConfig(key *Key, identity ident.KeyHash) *tls.Config {
	c := &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // pinned below
		MinVersion:         tls.VersionTLS13,
		VerifyConnection: func(cs tls.ConnectionState) error {
			certs := cs.PeerCertificates
			if identity.IsZero() {
				return nil
			}
			if len(certs) != 2 || ident.HashCertKey(certs[1]) != identity {
				return fmt.Errorf("the CAS has another identity")
			}
			return certs[0].CheckSignatureFrom(certs[1])
		},
	}

	if key != nil {
		c.Certificates = []tls.Certificate{key.Cert}
	}
	return c
}

// Observe is told of every reply: which API ("owners", "instances"), request and
// reply.
type Observe func(which, method, path string, status int, header http.Header, body []byte)

// Owner talks to the owners' API.
type Owner struct {
	Addr    string
	Key     *Key
	Observe Observe // may be nil
	http    *http.Client

	// Root is the simulated root that VarRoot stands for in what the owner sends.
	Root ident.Digest
}

// VarRoot stands in the text of a session for the simulated root that its owner
// trusts, which is another in every test.
const VarRoot = "$SIMULATION_ROOT"

// NewOwner returns a client with a key, or none.
func NewOwner(addr string, identity ident.KeyHash, key *Key) *Owner {
	return &Owner{Addr: addr, Key: key, http: &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: tlsConfig(key, identity), MaxIdleConnsPerHost: 64},
	}}
}

// Close ends the client's idle connections.
func (o *Owner) Close() { o.http.CloseIdleConnections() }

// Answer is what Do tells of a reply besides its body.
type Answer struct {
	StatusCode int
	Header     http.Header
}

// Do sends a request; path may carry a query. A refusal is a *problem.Error.
func (o *Owner) Do(ctx context.Context, method, path string, body []byte, out any) (*Answer, error) {
	if !o.Root.IsZero() {
		body = bytes.ReplaceAll(body, []byte(VarRoot), []byte(o.Root.String()))
	}

	req, err := http.NewRequestWithContext(ctx, method, "https://"+o.Addr+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}

	resp, err := o.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer := &Answer{resp.StatusCode, resp.Header}

	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer, err
	}

	if o.Observe != nil && method != http.MethodHead {
		o.Observe("owners", method, resp.Request.URL.RequestURI(), resp.StatusCode, resp.Header, b)
	}

	if resp.StatusCode >= 300 {
		return answer, problem.Read(resp.StatusCode, b)
	}

	if out == nil {
		return answer, nil
	}
	return answer, json.Unmarshal(b, out)
}

// Instance is a copy of a service as the CAS meets it. Fields may be set to lie.
type Instance struct {
	Addr     string // of the instances' API
	Identity ident.KeyHash
	Platform *simtee.Platform
	Session  ident.SessionName
	Service  ident.ServiceName
	Grant    owners.GrantToken // the zero one: it presents none
	Launch   simtee.Launch
	Key      *Key
	From     net.Addr // where it connects from; nil: anywhere
	Observe  Observe  // may be nil

	// Evidence replaces how evidence is made.
	Evidence func(reportData evidence.Data64) (evidence.Evidence, error)
}

// NewInstance is an honest copy of code with this measurement.
func NewInstance(addr string, identity ident.KeyHash, p *simtee.Platform, session ident.SessionName, service ident.ServiceName, m ident.Measurement) (*Instance, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}

	return &Instance{
		Addr:     addr,
		Identity: identity,
		Platform: p,
		Session:  session,
		Service:  service,
		Key:      key,
		Launch: simtee.Launch{
			Measurement: m,
			Signer:      simtee.Signer(),
			Debug:       true,
			ConfigID:    wire.LaunchBinding(identity, session, service),
		},
	}, nil
}

// Conn is an instance's connection to the CAS.
type Conn struct {
	in  *Instance
	tls *tls.Conn
	br  *bufio.Reader
}

// Dial connects and shakes hands.
func (in *Instance) Dial(ctx context.Context) (*Conn, error) {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second, LocalAddr: in.From}, Config: tlsConfig(in.Key, in.Identity)}

	c, err := d.DialContext(ctx, "tcp", in.Addr)
	if err != nil {
		return nil, err
	}

	tc := c.(*tls.Conn)
	return &Conn{in, tc, bufio.NewReader(tc)}, nil
}

// Close ends the connection.
func (c *Conn) Close() { _ = c.tls.Close() }

// Request makes the release request for this connection.
func (c *Conn) Request() (*wire.ReleaseRequest, error) {
	cs := c.tls.ConnectionState()
	exporter, err := wire.Exporter(&cs)
	if err != nil {
		return nil, err
	}

	quote := c.in.Evidence
	if quote == nil {
		quote = func(d evidence.Data64) (evidence.Evidence, error) { return c.in.Platform.Quote(c.in.Launch, d) }
	}

	ev, err := quote(wire.ReportData(exporter, c.in.Key.Hash))
	if err != nil {
		return nil, err
	}

	return &wire.ReleaseRequest{
		Version:  wire.ReleaseVersion,
		Session:  c.in.Session,
		Service:  c.in.Service,
		Grant:    c.in.Grant,
		Evidence: ev,
	}, nil
}

// Post sends v and decodes the reply into out. A refusal is a *problem.Error.
func (c *Conn) Post(path string, v, out any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}

	status, b, err := c.PostBytes(path, body)
	if err != nil {
		return err
	}

	if status != http.StatusOK {
		return problem.Read(status, b)
	}

	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// PostBytes sends a body as it is.
func (c *Conn) PostBytes(path string, body []byte) (status int, reply []byte, err error) {
	if err := c.tls.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		return 0, nil, err
	}

	req, err := http.NewRequest(http.MethodPost, "https://cas"+path, bytes.NewReader(body)) //nolint:noctx // the deadline bounds it
	if err != nil {
		return 0, nil, err
	}

	if err := req.Write(c.tls); err != nil {
		return 0, nil, err
	}

	resp, err := http.ReadResponse(c.br, req)
	if err != nil {
		return 0, nil, err
	}

	defer func() { _ = resp.Body.Close() }()
	reply, err = io.ReadAll(resp.Body)
	if err == nil && c.in.Observe != nil {
		c.in.Observe("instances", http.MethodPost, path, resp.StatusCode, resp.Header, reply)
	}

	return resp.StatusCode, reply, err
}

// Release connects, asks, and keeps the connection for what follows.
func (in *Instance) Release(ctx context.Context) (*Conn, *wire.ReleaseReply, error) {
	c, err := in.Dial(ctx)
	if err != nil {
		return nil, nil, err
	}

	req, err := c.Request()
	if err != nil {
		c.Close()
		return nil, nil, err
	}

	var reply wire.ReleaseReply
	if err := c.Post(wire.PathRelease, req, &reply); err != nil {
		c.Close()
		return nil, nil, err
	}

	return c, &reply, nil
}

// IdentityKey is the CAS's identity key, from the certificates of the connection.
func (c *Conn) IdentityKey() (*ecdsa.PublicKey, error) {
	certs := c.tls.ConnectionState().PeerCertificates

	key, ok := certs[len(certs)-1].PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the identity key is a %T", certs[len(certs)-1].PublicKey)
	}

	return key, nil
}
