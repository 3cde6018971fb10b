package las

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// maxEvidence bounds what is read of an answer: a quote is a few kilobytes,
// collateral with its chains and revocation lists some hundred.
const maxEvidence = 4 << 20

// Client asks one LAS. It keeps no connection, so that a restarted LAS is
// found again; safe for concurrent use.
type Client struct {
	// Addr is "unix:" and the absolute path of the socket.
	Addr string
}

// Quote asks for evidence that carries reportData. A LAS that can't be reached
// is a problem of kind Unavailable: worth another try.
func (c Client) Quote(ctx context.Context, reportData evidence.Data64) (evidence.Evidence, error) {
	path, err := wire.SocketPath(c.Addr)
	if err != nil {
		return evidence.Evidence{}, err
	}

	body, err := json.Marshal(wire.QuoteRequest{Version: 1, ReportData: reportData})
	if err != nil {
		return evidence.Evidence{}, fmt.Errorf("marshal quote request: %w", err)
	}

	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://las"+wire.PathQuote, bytes.NewReader(body))
	if err != nil {
		return evidence.Evidence{}, fmt.Errorf("make quote request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")

	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}

	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return evidence.Evidence{}, problem.New(problem.Unavailable, problem.RuleLASUnreachable, "ask the LAS at %s: %w", c.Addr, err).
			Fix("see that the node's attestation service runs")
	}

	defer resp.Body.Close()
	return readEvidence(resp)
}

func readEvidence(resp *http.Response) (evidence.Evidence, error) {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxEvidence+1))
	switch {
	case err != nil:
		return evidence.Evidence{}, problem.New(problem.Unavailable, problem.RuleLASUnreachable, "read the LAS's answer: %w", err)
	case len(b) > maxEvidence:
		return evidence.Evidence{}, problem.New(problem.Internal, problem.RuleLASReply, "more than %d bytes of evidence", maxEvidence)
	case resp.StatusCode != http.StatusOK:
		return evidence.Evidence{}, problem.Read(resp.StatusCode, b)
	}

	var ev evidence.Evidence
	if err := json.Unmarshal(b, &ev); err != nil {
		return evidence.Evidence{}, problem.New(problem.Internal, problem.RuleLASReply, "the LAS's answer is no evidence: %w", err)
	}

	if ev.Type == "" || len(ev.Quote) == 0 {
		return evidence.Evidence{}, problem.New(problem.Internal, problem.RuleLASReply, "the LAS's answer carries no quote")
	}
	return ev, nil
}
