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
//	GET  /v1/volumes/{id}?generation=N&tag=T -> 200, ciphertext; 404: not stored
//	PUT  /v1/volumes/{id}?generation=N       <- ciphertext, then the trailer Cupel-Tag; 204 when it is durable
//	POST /v1/status                          <- Status; 200, Orders, or 204
//
// A snapshot is known by volume, generation and tag. Two writers may store the
// same generation: one whose lease lapsed while it was cut off, and its
// successor. The CAS takes the tag of one of them, the node can't know whose,
// so it keeps both, and a GET names the one that the CAS named. It keeps a
// generation until the one after the next is stored, because a PUT whose tag
// never reached the CAS leaves a newer snapshot that nobody may use.
//
// The tag is known when the last byte is: it follows the body as a trailer. A
// PUT whose body breaks off, or that has no tag, stores nothing. Errors are
// problem bodies.
const (
	// NodeSocket is the node socket's name in the instance's socket directory.
	NodeSocket = "node.sock"
	// PathVolumes is followed by the volume's id in hex.
	PathVolumes = "/v1/volumes/"
	// PathStatus takes the launcher's reports.
	PathStatus = "/v1/status"
	// QueryGeneration is the query parameter that names a generation (decimal).
	QueryGeneration = "generation"
	// QueryTag is the query parameter that names a snapshot's tag (hex).
	QueryTag = "tag"
	// TrailerTag is the trailer of a PUT with the snapshot's tag (hex).
	TrailerTag = "Cupel-Tag"
)

// Snapshot names one sealed state of a volume.
type Snapshot struct {
	Volume     ident.Digest
	Generation uint64
	Tag        ident.Digest // of the sealed bytes; see package sealed
}

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
	Stopping   Phase = "stopping"   // the app was told to end
	Committing Phase = "committing" // the app ended well; volumes are being stored
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
	// Problem is why, with Refused; with Exited, what the exit code doesn't say
	// (RuleNotCommitted); with an earlier phase, what the launcher waits for.
	Problem *problem.Error `json:"problem,omitempty"`
	// CertificateUntil is when the instance has to be replaced, in Unix seconds,
	// since a certificate ends then that nothing renews while the app runs; 0: never.
	CertificateUntil int64 `json:"certificate_until,omitempty"`
}

// RuleNotCommitted says that an app ended in a way in which nothing that it wrote
// is kept.
const RuleNotCommitted = "not_committed"

// Orders is what the node answers to a report.
type Orders struct {
	// GraceMillis is what is left of the time that the host gives a stopped app,
	// in milliseconds; 0: the host didn't ask it to end.
	GraceMillis int64 `json:"grace_millis,omitempty"`
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

// Get opens a snapshot's stored ciphertext. Size is the number of bytes that
// the node announced, -1 for none. A missing snapshot is a problem of kind
// NotFound; a node that can't be reached one of Unavailable.
func (n *Node) Get(ctx context.Context, s Snapshot) (body io.ReadCloser, size int64, err error) {
	path := volumePath(s.Volume, url.Values{
		QueryGeneration: {strconv.FormatUint(s.Generation, 10)}, QueryTag: {s.Tag.String()},
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
	path := volumePath(id, url.Values{QueryGeneration: {strconv.FormatUint(generation, 10)}})
	req, err := newRequest(ctx, http.MethodPut, path, "application/octet-stream", nil)
	if err != nil {
		return err
	}
	req.Trailer = http.Header{TrailerTag: nil}
	req.Body, req.ContentLength = io.NopCloser(&tagged{body, func() { req.Trailer.Set(TrailerTag, tag().String()) }}), -1
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
func (n *Node) Report(ctx context.Context, s Status) (Orders, error) {
	s.Version = StatusVersion
	b, err := json.Marshal(s)
	if err != nil {
		return Orders{}, fmt.Errorf("marshal status: %w", err)
	}

	resp, err := n.do(ctx, http.MethodPost, PathStatus, "application/json", bytes.NewReader(b))
	if err != nil {
		return Orders{}, err
	}
	defer resp.Body.Close()

	var orders Orders
	_ = json.NewDecoder(io.LimitReader(resp.Body, 4<<10)).Decode(&orders)
	return orders, nil
}

func volumePath(id ident.Digest, q url.Values) string {
	return PathVolumes + id.String() + "?" + q.Encode()
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
