package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// errPeerGone ends the CAS: whoever attests it, and started it, has ended.
var errPeerGone = errors.New("the evidence socket was closed")

const (
	maxEvidence     = 4 << 20
	evidenceTimeout = 10 * time.Second
)

// evidenceSource asks a LAS over one inherited connection, which is its only proof of
// who asks. Requests follow each other; a reader waits for the answers, and for
// the connection's end in between.
type evidenceSource struct {
	conn    net.Conn
	mu      sync.Mutex // one request at a time
	answers chan answer
	gone    chan struct{}
}

// answer is a response of the LAS, read whole.
type answer struct {
	status int
	body   []byte
}

// openEvidence takes over the socket that this process was started with.
func openEvidence(fd int) (*evidenceSource, error) {
	f := os.NewFile(uintptr(fd), "evidence")
	if f == nil {
		return nil, problem.New(problem.Invalid, ruleFlags, "--evidence-fd %d is not open", fd)
	}

	conn, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, problem.New(problem.Invalid, ruleFlags, "--evidence-fd %d: %w", fd, err)
	}
	return &evidenceSource{conn: conn, answers: make(chan answer), gone: make(chan struct{})}, nil
}

// run reads answers until the peer closes or ctx ends.
func (e *evidenceSource) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = e.conn.Close() })
	defer stop()
	defer close(e.gone)

	br := bufio.NewReader(e.conn)
	for {
		a, err := readAnswer(br)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return errors.Join(errPeerGone, e.conn.Close())
		}

		select {
		case e.answers <- a:
		case <-ctx.Done():
			return nil
		}
	}
}

// readAnswer reads one response.
func readAnswer(br *bufio.Reader) (answer, error) {
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return answer{}, err
	}

	body, err := io.ReadAll(io.LimitReader(resp.Body, maxEvidence+1))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return answer{}, err
	}
	if len(body) > maxEvidence {
		return answer{}, fmt.Errorf("evidence of more than %d bytes", maxEvidence)
	}
	return answer{status: resp.StatusCode, body: body}, nil
}

// quote gets evidence with reportData. An answer that takes too long breaks the
// connection's order, so it ends the connection and with it the CAS.
func (e *evidenceSource) quote(ctx context.Context, reportData evidence.Data64) (evidence.Evidence, error) {
	body, err := json.Marshal(wire.QuoteRequest{Version: 1, ReportData: reportData})
	if err != nil {
		return evidence.Evidence{}, fmt.Errorf("marshal quote request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://las"+wire.PathQuote, bytes.NewReader(body))
	if err != nil {
		return evidence.Evidence{}, fmt.Errorf("make quote request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")

	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.conn.SetWriteDeadline(time.Now().Add(evidenceTimeout)); err != nil {
		return evidence.Evidence{}, lasGone(err)
	}
	if err := req.Write(e.conn); err != nil {
		return evidence.Evidence{}, lasGone(errors.Join(err, e.conn.Close()))
	}

	select {
	case a := <-e.answers:
		return decodeEvidence(a)
	case <-e.gone:
		return evidence.Evidence{}, lasGone(errPeerGone)
	case <-time.After(evidenceTimeout):
		return evidence.Evidence{}, lasGone(errors.Join(errors.New("no answer in time"), e.conn.Close()))
	}
}

// decodeEvidence is the evidence in an answer, or the refusal.
func decodeEvidence(a answer) (evidence.Evidence, error) {
	var ev evidence.Evidence
	if a.status != http.StatusOK {
		return ev, problem.Read(a.status, a.body)
	}

	if err := json.Unmarshal(a.body, &ev); err != nil {
		return ev, problem.New(problem.Internal, problem.RuleLASReply, "the LAS's answer is no evidence: %w", err)
	}
	return ev, nil
}

// lasGone is a LAS that does not answer.
func lasGone(err error) error {
	return problem.New(problem.Unavailable, problem.RuleLASUnreachable, "ask the LAS for evidence: %w", err).Fix("try again")
}
