package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// Node is the client of a node socket. Safe for concurrent use.
type Node struct {
	client *http.Client
}

// NewNode returns the client of the socket at path. Nothing is dialled yet.
func NewNode(path string) *Node {
	return &Node{client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableCompression: true,
		DisableKeepAlives:  true, // a restarted node is found again
	}}}
}

// Get opens a snapshot's stored ciphertext. Size is the number of bytes that
// the node announced, -1 for none. A missing snapshot is a problem of kind
// NotFound; a node that can't be reached one of Unavailable.
func (n *Node) Get(ctx context.Context, s wire.Snapshot) (body io.ReadCloser, size int64, err error) {
	path := volumePath(s.Volume, url.Values{
		wire.QueryGeneration: {strconv.FormatUint(s.Generation, 10)}, wire.QueryTag: {s.Tag.String()},
	})
	resp, err := n.do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return nil, 0, err
	}
	return resp.Body, resp.ContentLength, nil
}

// Put stores the ciphertext of one generation and returns when the node says
// that it is durable. Tag is asked for at the end of body. When body fails, the
// node stores nothing.
func (n *Node) Put(ctx context.Context, id ident.Digest, generation uint64, body io.Reader, tag func() ident.Digest) error {
	path := volumePath(id, url.Values{wire.QueryGeneration: {strconv.FormatUint(generation, 10)}})
	req, err := newRequest(ctx, http.MethodPut, path, "application/octet-stream", nil)
	if err != nil {
		return err
	}

	req.Trailer = http.Header{wire.TrailerTag: nil}
	req.Body = io.NopCloser(&tagged{body, func() { req.Trailer.Set(wire.TrailerTag, tag().String()) }})
	req.ContentLength = -1

	resp, err := n.send(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// tagged calls ended when the reader ends, just before it says so.
type tagged struct {
	r     io.Reader
	ended func()
}

func (t *tagged) Read(b []byte) (int, error) {
	n, err := t.r.Read(b)
	if err == io.EOF { // as io.Reader defines it: never wrapped
		t.ended()
	}
	return n, err
}

// Report sends s. An answer that can't be read is one without orders: the report
// arrived all the same.
func (n *Node) Report(ctx context.Context, s wire.Status) (wire.Orders, error) {
	s.Version = wire.StatusVersion
	b, err := json.Marshal(s)
	if err != nil {
		return wire.Orders{}, fmt.Errorf("marshal status: %w", err)
	}

	resp, err := n.do(ctx, http.MethodPost, wire.PathStatus, "application/json", bytes.NewReader(b))
	if err != nil {
		return wire.Orders{}, err
	}
	defer resp.Body.Close()

	var orders wire.Orders
	_ = json.NewDecoder(io.LimitReader(resp.Body, 4<<10)).Decode(&orders)
	return orders, nil
}

func volumePath(id ident.Digest, q url.Values) string {
	return wire.PathVolumes + id.String() + "?" + q.Encode()
}

func (n *Node) do(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := newRequest(ctx, method, path, contentType, body)
	if err != nil {
		return nil, err
	}
	return n.send(req)
}

func newRequest(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request to the node: %w", err)
	}

	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return req, nil
}

// send sends one request; any status beyond 2xx becomes a problem.
func (n *Node) send(req *http.Request) (*http.Response, error) {
	resp, err := n.client.Do(req)
	if err != nil {
		return nil, problem.New(problem.Unavailable, problem.RuleNodeUnreachable, "ask the node: %w", err).
			Fix("look at the node's daemon: it serves the instance's socket directory")
	}

	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return nil, problem.Read(resp.StatusCode, b)
}
