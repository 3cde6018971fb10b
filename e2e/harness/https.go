//go:build e2e

package harness

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"cupel.dev/cupel/internal/testing/netlab"
)

// Answer is what the app of the examples says.
type Answer struct {
	Message  string `json:"message"`
	Instance string `json:"instance"`
}

// Client is a user of an app: it trusts one CA and nothing else.
type Client struct {
	roots *x509.CertPool
	space *netlab.Space // nil: the machine itself
}

// NewClient returns a client that trusts a CA's certificate in PEM.
func NewClient(ca string) (*Client, error) {
	c := &Client{roots: x509.NewCertPool()}
	if !c.roots.AppendCertsFromPEM([]byte(ca)) {
		return nil, fmt.Errorf("no certificate in %q", ca)
	}
	return c, nil
}

// In returns the client on another machine.
func (c *Client) In(s *netlab.Space) *Client { return &Client{roots: c.roots, space: s} }

// Get asks the app for "/" at an address, over a new connection from an address of the
// client's machine (zero: any). The certificate must be for localhost.
func (c *Client) Get(from netip.Addr, at netip.AddrPort) (Answer, error) {
	return c.GetPath(from, at, "/")
}

// GetPath is Get for another path.
func (c *Client) GetPath(from netip.Addr, at netip.AddrPort, path string) (Answer, error) {
	dial := netlab.Dial
	if c.space != nil {
		dial = c.space.Dial
	}

	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return dial(from, at) },
		TLSClientConfig:   &tls.Config{RootCAs: c.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12},
	}

	client := http.Client{Transport: transport, Timeout: 15 * time.Second}

	req, err := http.NewRequest(http.MethodGet, "https://localhost"+path, nil)
	if err != nil {
		return Answer{}, err
	}

	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}

	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return Answer{}, err
	}

	var a Answer

	if resp.StatusCode != http.StatusOK || json.Unmarshal(body, &a) != nil {
		return a, fmt.Errorf("status %d: %q", resp.StatusCode, body)
	}

	return a, nil
}

// Connect opens one connection to the app at an address, over which each call of get is
// a request.
func (c *Client) Connect(at netip.AddrPort) (get func() error, hangUp func(), err error) {
	dial := netlab.Dial
	if c.space != nil {
		dial = c.space.Dial
	}

	raw, err := dial(netip.Addr{}, at)
	if err != nil {
		return nil, nil, err
	}

	conn := tls.Client(raw, &tls.Config{RootCAs: c.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12})
	answers := bufio.NewReader(conn)

	get = func() error {
		if err := conn.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
			return err
		}

		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			return err
		}

		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()

		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}

		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}

		return nil
	}

	return get, func() { _ = conn.Close() }, nil
}

// AppCA returns the certificate of the CA that a session made for its app.
func (p *Party) AppCA(session string) string {
	p.world.T.Helper()
	return p.MustRun("session", "values", session, "app_ca")
}

// AppClient returns a client that trusts the app of a session.
func (p *Party) AppClient(session string) *Client {
	p.world.T.Helper()
	c, err := NewClient(p.AppCA(session))
	p.world.must(err)
	return c
}
