package launcher

import (
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
	"sync"
	"sync/atomic"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/selfsigned"
	"cupel.dev/cupel/internal/trusted/wire"
)

// requestTimeout bounds one exchange with the CAS; handshakes included.
const requestTimeout = 20 * time.Second

// quoter makes evidence that carries report data.
type quoter interface {
	Quote(ctx context.Context, reportData evidence.Data64) (evidence.Evidence, error)
}

// casClient talks to one CAS with one fresh key, the instance's own.
type casClient struct {
	addr string
	now  func() time.Time
	cert tls.Certificate
	hash ident.KeyHash // of the key: the instance's id

	// grant is the right to run, presented with every release; none where the
	// host gave none.
	grant    owners.GrantToken
	answered bool         // a release was; of one goroutine at a time, as releases are
	heard    atomic.Int64 // when the CAS answered last, by bootTime

	mu       sync.Mutex
	identity ident.KeyHash // set by the first accepted release; guarded by mu
	later    *http.Client  // for what follows the release; guarded by mu
}

// grantOf is the right to run that the host gave.
func grantOf(h Host) (owners.GrantToken, error) {
	return owners.ParseGrantToken(string(h.Grant.Reveal()))
}

// newCASClient makes the instance's key.
func newCASClient(addr string, now func() time.Time) (*casClient, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the instance's key: %w", err)
	}

	der, err := selfsigned.Certificate{
		Name:      "cupel instance",
		NotBefore: now().Add(-time.Hour),
		NotAfter:  now().AddDate(10, 0, 0),
		Usages:    []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}.Sign(key)
	if err != nil {
		return nil, err
	}

	hash, err := ident.HashKey(key.Public())
	if err != nil {
		return nil, err
	}

	return &casClient{
		addr: addr,
		now:  now,
		hash: hash,
		cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
	}, nil
}

// dial connects and returns the identity that the CAS proved to hold: the key
// that signed its TLS leaf. Whether it is the right one is the caller's to say.
func (c *casClient) dial(ctx context.Context) (*tls.Conn, ident.KeyHash, error) {
	var identity ident.KeyHash

	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 5 * time.Second},
		Config: &tls.Config{
			MinVersion: tls.VersionTLS13,
			// The name says nothing here: the identity in L does. The chain is
			// verified below, on every connection.
			InsecureSkipVerify:     true,
			Certificates:           []tls.Certificate{c.cert},
			SessionTicketsDisabled: true,
			VerifyConnection: func(cs tls.ConnectionState) error {
				who, err := wire.VerifyCASChain(cs.PeerCertificates, c.now())
				identity = who.Hash
				return err
			},
		},
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()

	conn, err := dialer.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		if p := problem.From(err); p.Kind != problem.Internal {
			return nil, identity, p
		}
		return nil, identity, unreachable(c.addr, err)
	}
	return conn.(*tls.Conn), identity, nil
}

func unreachable(addr string, err error) error {
	return problem.New(problem.Unavailable, problem.RuleCASUnreachable, "CAS at %s: %w", addr, err).
		Fix("see that the CAS runs and can be reached from the instance's network")
}

// release attests over a fresh connection and asks for config.
func (c *casClient) release(ctx context.Context, q quoter, config ident.ServiceRef) (*wire.ReleaseReply, error) {
	conn, identity, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()

	state := conn.ConnectionState()
	exporter, err := wire.Exporter(&state)
	if err != nil {
		return nil, err
	}
	reportData := wire.ReportData(exporter, c.hash)

	ev, err := q.Quote(ctx, reportData)
	if err != nil {
		return nil, err
	}
	if err := checkBinding(ev, reportData, identity, config); err != nil {
		return nil, err
	}

	once := &http.Client{Transport: &http.Transport{
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableKeepAlives: true,
	}}

	req := wire.ReleaseRequest{
		Version:   wire.ReleaseVersion,
		Session:   config.Session,
		Service:   config.Service,
		OTP:       config.OTP,
		Grant:     c.grant,
		Returning: c.answered,
		Evidence:  ev,
	}

	var reply wire.ReleaseReply
	if err := c.post(ctx, once, wire.PathRelease, req, &reply); err != nil {
		return nil, err
	}

	if reply.Version != wire.ReleaseVersion || reply.InstanceID != c.hash {
		return nil, problem.New(problem.Internal, ruleReleaseReply, "version %d for instance %s", reply.Version, reply.InstanceID.Short()).
			Want("version %d for instance %s", wire.ReleaseVersion, c.hash.Short())
	}

	c.bind(identity)
	c.answered = true
	return &reply, nil
}

// bind fixes the identity: what follows goes to the same CAS or nowhere. No
// connection stays open between reports: thousands of instances would fill the
// CAS with idle ones.
func (c *casClient) bind(identity ident.KeyHash) {
	c.mu.Lock()
	defer c.mu.Unlock()

	c.identity = identity
	c.later = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, got, err := c.dial(ctx)
			if err != nil {
				return nil, err
			}

			if got != identity {
				_ = conn.Close()
				return nil, problem.New(problem.Denied, problem.RuleCASIdentity, "the CAS that answers is %s", got.Short()).
					Want("%s, the one that released", identity.Short())
			}
			return conn, nil
		},
	}}
}

// call posts to the CAS that released.
func (c *casClient) call(ctx context.Context, path string, in, out any) error {
	c.mu.Lock()
	client := c.later
	c.mu.Unlock()

	if client == nil {
		return problem.New(problem.Internal, ruleOrder, "%s before the release", path)
	}
	return c.post(ctx, client, path, in, out)
}

// post sends one request. A failed exchange is a problem of kind Unavailable.
func (c *casClient) post(ctx context.Context, client *http.Client, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("marshal request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()

	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+c.addr+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")

	resp, err := client.Do(req)
	if err != nil {
		if p := problem.From(err); p.Kind != problem.Internal {
			return p
		}
		return unreachable(c.addr, err)
	}
	defer resp.Body.Close()

	b, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxBody+1))
	defer clear(b)
	switch {
	case err != nil:
		return unreachable(c.addr, err)
	}

	c.heard.Store(int64(bootTime())) // whatever it says
	switch {
	case len(b) > wire.MaxBody:
		return problem.New(problem.Internal, problem.RuleReply, "%s answers more than %d bytes", path, wire.MaxBody)
	case resp.StatusCode != http.StatusOK:
		return problem.Read(resp.StatusCode, b)
	}

	if err := json.Unmarshal(b, out); err != nil {
		// Not the text of the error: it could quote the body, which is secret.
		return problem.New(problem.Internal, problem.RuleReply, "the answer to %s is not what release version %d says", path, wire.ReleaseVersion)
	}
	return nil
}
