package volume

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

	"cupel.dev/cupel/internal/trusted/ident"
	"cupel.dev/cupel/internal/trusted/problem"
)

// The node serves HTTP/1.1 over a Unix socket of the instance's own, beside
// the LAS socket. Only the launcher reaches it. Nothing that the node says is
// trusted: a snapshot is good if it verifies against the tag at the CAS.
//
//	GET  /v1/volumes/{id}?generation=N  -> 200, ciphertext; 404: not stored
//	PUT  /v1/volumes/{id}?generation=N  <- ciphertext; 204 when it is durable
//	POST /v1/status                     <- Status; 204
//
// A GET names the generation that the CAS knows: the node keeps that one until
// a later one was asked for or stored twice, because a PUT whose tag never
// reached the CAS leaves a newer snapshot that nobody may use. A PUT of a
// generation that is there already replaces it. A PUT whose body breaks off
// stores nothing. Errors are problem bodies.
const (
	// NodeSocket is the node socket's name in the instance's socket directory.
	NodeSocket = "node.sock"
	// PathVolumes is followed by the volume's id in hex.
	PathVolumes = "/v1/volumes/"
	// PathStatus takes the launcher's reports.
	PathStatus = "/v1/status"
	// QueryGeneration is the query parameter that names a generation (decimal).
	QueryGeneration = "generation"
)

// StatusVersion is the version of Status.
const StatusVersion = 1

// Phase is how far an instance is.
type Phase string

// Phases of an instance, in their order.
const (
	Starting   Phase = "starting"   // the launcher runs
	Attesting  Phase = "attesting"  // it talks to the CAS
	Attested   Phase = "attested"   // released: InstanceID is known
	Mounting   Phase = "mounting"   // it fetches and opens volumes
	Running    Phase = "running"    // the app was started
	Committing Phase = "committing" // the app ended by itself; volumes are being stored
	Exited     Phase = "exited"     // the end, with the app's exit code
	Refused    Phase = "refused"    // the end: the launcher did not start the app, or could not commit; Problem says why
)

// Status is what the launcher tells its node, for people and schedulers. It is
// best effort and never carries a secret.
type Status struct {
	Version    int              `json:"version"`
	Phase      Phase            `json:"phase"`
	InstanceID ident.InstanceID `json:"instance_id,omitzero"` // from Attested on
	Code       int              `json:"code"`                 // with Exited and Refused: the launcher's exit code
	Problem    *problem.Error   `json:"problem,omitempty"`    // with Refused
}

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

// Get opens the stored ciphertext of one generation. Size is the number of
// bytes that the node announced, -1 for none. A missing snapshot is a
// problem of kind NotFound; a node that can't be reached one of Unavailable.
func (n *Node) Get(ctx context.Context, id ident.Digest, generation uint64) (body io.ReadCloser, size int64, err error) {
	resp, err := n.do(ctx, http.MethodGet, volumePath(id, generation), "", nil)
	if err != nil {
		return nil, 0, err
	}
	return resp.Body, resp.ContentLength, nil
}

// Put stores the ciphertext of one generation and returns when the node says
// that it is durable. When body fails, the node stores nothing.
func (n *Node) Put(ctx context.Context, id ident.Digest, generation uint64, body io.Reader) error {
	resp, err := n.do(ctx, http.MethodPut, volumePath(id, generation), "application/octet-stream", body)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Report sends s.
func (n *Node) Report(ctx context.Context, s Status) error {
	s.Version = StatusVersion
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("marshal status: %w", err)
	}
	resp, err := n.do(ctx, http.MethodPost, PathStatus, "application/json", bytes.NewReader(b))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func volumePath(id ident.Digest, generation uint64) string {
	q := url.Values{QueryGeneration: {strconv.FormatUint(generation, 10)}}
	return PathVolumes + id.String() + "?" + q.Encode()
}

// do sends one request; any status beyond 2xx becomes a problem.
func (n *Node) do(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request to the node: %w", err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return nil, problem.New(problem.Unavailable, "node_unreachable", "ask the node: %w", err).
			Fix("look at the node's daemon: it serves the instance's socket directory")
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return nil, problem.Read(resp.StatusCode, b)
}
