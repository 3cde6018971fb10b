package launcher

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/wire"
)

// fakeLAS makes quotes in the test's own process.
type fakeLAS struct {
	configID evidence.Data64
	change   func(*evidence.Evidence)
}

func (l fakeLAS) Quote(_ context.Context, reportData evidence.Data64) (evidence.Evidence, error) {
	ev := evidence.Evidence{Type: evidence.SGX, Quote: fakeQuote(l.configID, reportData)}
	if l.change != nil {
		l.change(&ev)
	}
	return ev, nil
}

func testConfigID(t testing.TB) ident.ServiceRef {
	t.Helper()
	id, err := ident.ParseServiceRef(testConfig)
	must(t, err)
	return id
}

func localCAS(t *testing.T) (*fakeCAS, string, fakeLAS) {
	t.Helper()
	c := newFakeCAS(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c.serve(l)
	id := testConfigID(t)
	return c, l.Addr().String(), fakeLAS{configID: wire.LaunchBinding(c.hash(), id.Session, id.Service)}
}

func TestRelease(t *testing.T) {
	c, addr, las := localCAS(t)
	client, err := newCASClient(addr, time.Now)
	must(t, err)
	reply, err := client.release(t.Context(), las, testConfigID(t))
	must(t, err)
	if reply.InstanceID != client.hash {
		t.Error("another instance id")
	}
	var kept wire.KeepAliveReply
	must(t, client.call(t.Context(), wire.PathKeepAlive, wire.KeepAlive{Version: 1}, &kept))
	if c.keepAlives != 1 {
		t.Error("no keep-alive arrived")
	}
}

func TestReleaseNeedsTheBoundCAS(t *testing.T) {
	c, addr, las := localCAS(t)
	cases := map[string]struct {
		las  fakeLAS
		rule problem.Rule
	}{
		"another launch":     {fakeLAS{configID: evidence.Data64{1}}, "launch_binding"},
		"no launch binding":  {fakeLAS{}, "launch_binding"},
		"short quote":        {fakeLAS{las.configID, func(e *evidence.Evidence) { e.Quote = e.Quote[:431] }}, "evidence_form"},
		"another version":    {fakeLAS{las.configID, func(e *evidence.Evidence) { e.Quote[0] = 4 }}, "evidence_form"},
		"another type":       {fakeLAS{las.configID, func(e *evidence.Evidence) { e.Type = evidence.TPM }}, "evidence_type"},
		"another connection": {fakeLAS{las.configID, func(e *evidence.Evidence) { e.Quote[400] ^= 1 }}, "evidence_binding"},
	}
	for name, k := range cases {
		t.Run(name, func(t *testing.T) {
			client, err := newCASClient(addr, time.Now)
			must(t, err)
			_, err = client.release(t.Context(), k.las, testConfigID(t))
			wantRule(t, err, k.rule)
		})
	}
	if c.releases != 0 {
		t.Errorf("%d requests were sent all the same", c.releases)
	}
}

func TestCASIdentity(t *testing.T) {
	c, other := newFakeCAS(t), newFakeCAS(t)
	now := time.Now()
	cases := map[string]struct {
		leaf tls.Certificate
		rule problem.Rule
	}{
		"good":              {c.newLeaf(now.Add(-time.Hour), now.Add(time.Hour)), ""},
		"within the slack":  {c.newLeaf(now.Add(4*time.Minute), now.Add(time.Hour)), ""},
		"just over":         {c.newLeaf(now.Add(-time.Hour), now.Add(-4*time.Minute)), ""},
		"not yet":           {c.newLeaf(now.Add(6*time.Minute), now.Add(time.Hour)), "cas_chain"},
		"expired":           {c.newLeaf(now.Add(-time.Hour), now.Add(-6*time.Minute)), "cas_chain"},
		"leaf alone":        {tls.Certificate{Certificate: c.leaf.Certificate[:1]}, "cas_chain"},
		"another's leaf":    {tls.Certificate{Certificate: [][]byte{other.leaf.Certificate[0], c.idCert.Raw}}, "cas_chain"},
		"identity as leaf":  {tls.Certificate{Certificate: [][]byte{c.idCert.Raw}}, "cas_chain"},
		"leaf signs itself": {tls.Certificate{Certificate: [][]byte{c.leaf.Certificate[0], c.leaf.Certificate[0]}}, "cas_chain"},
	}
	for name, k := range cases {
		t.Run(name, func(t *testing.T) {
			id, err := wire.VerifyCASChain(parse(t, k.leaf.Certificate), now)
			wantRule(t, err, k.rule)
			if err == nil && id.Hash != c.hash() {
				t.Error("another identity")
			}
		})
	}
}

// TestLaterRequestsGoToTheSameCAS: after the release, a CAS with another
// identity at the same address gets nothing.
func TestLaterRequestsGoToTheSameCAS(t *testing.T) {
	c := newFakeCAS(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := c.serve(l)
	id := testConfigID(t)
	client, err := newCASClient(l.Addr().String(), time.Now)
	must(t, err)
	_, err = client.release(t.Context(), fakeLAS{configID: wire.LaunchBinding(c.hash(), id.Session, id.Service)}, id)
	must(t, err)
	srv.Close()

	rogue := newFakeCAS(t)
	l2, err := net.Listen("tcp", l.Addr().String())
	must(t, err)
	rogue.serve(l2)
	var reply struct{}
	err = client.call(t.Context(), wire.PathExit, wire.Exit{Version: 1}, &reply)
	wantRule(t, err, "cas_identity")
	if len(rogue.exits) != 0 {
		t.Error("the rogue CAS got a request")
	}
}

func TestCASUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	_ = l.Close()
	var out bytes.Buffer
	run := &launcher{stderr: &out, now: time.Now, patience: 700 * time.Millisecond, host: Host{CAS: addr, LAS: "unix:/none", Config: testConfigID(t)}}
	_, err = run.attest(t.Context())
	wantRule(t, err, "cas_unreachable")
	if problem.KindOf(err) != problem.Unavailable || !strings.Contains(out.String(), "try 2: cas_unreachable") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// TestCASDiesInTheMiddle: connections that break while a request is answered
// are tried again, over a new connection with new evidence.
func TestCASDiesInTheMiddle(t *testing.T) {
	c := newFakeCAS(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := c.serve(l)
	var broken atomic.Int64
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Add(1) <= 2 {
			panic(http.ErrAbortHandler)
		}
		c.ServeHTTP(w, r)
	})
	id := testConfigID(t)
	client, err := newCASClient(l.Addr().String(), time.Now)
	must(t, err)
	err = retry(t.Context(), 10*time.Second, func(int, error) {}, func(ctx context.Context) error {
		_, err := client.release(ctx, fakeLAS{configID: wire.LaunchBinding(c.hash(), id.Session, id.Service)}, id)
		return err
	})
	if err != nil || broken.Load() != 3 {
		t.Errorf("%d requests, %v", broken.Load(), err)
	}
}

// TestSecretReplyIsNotQuoted: an answer that can't be read is not shown.
func TestSecretReplyIsNotQuoted(t *testing.T) {
	c, addr, las := localCAS(t)
	client, err := newCASClient(addr, time.Now)
	must(t, err)
	c.reply.Version = 9
	c.reply.Env = []string{"TOKEN=planted"}
	_, err = client.release(t.Context(), las, testConfigID(t))
	wantRule(t, err, "release_reply")
	if strings.Contains(err.Error(), "planted") {
		t.Error(err)
	}
}

func TestRetry(t *testing.T) {
	down := problem.New(problem.Unavailable, "down", "x")
	calls := 0
	err := retry(t.Context(), time.Minute, func(int, error) {}, func(context.Context) error { calls++; return problem.New(problem.Denied, "no", "x") })
	wantRule(t, err, "no")
	if calls != 1 {
		t.Errorf("a refusal was tried %d times", calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = retry(ctx, time.Minute, func(int, error) { cancel() }, func(context.Context) error { return down })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	err = retry(t.Context(), 10*time.Millisecond, func(int, error) {}, func(context.Context) error { return down })
	wantRule(t, err, "down")

	// What cuts the last try is no reason.
	calls = 0
	err = retry(t.Context(), time.Second, func(int, error) {}, func(ctx context.Context) error {
		if calls++; calls == 1 {
			return problem.New(problem.Unavailable, "disk_full", "x")
		}
		<-ctx.Done()
		return problem.New(problem.Unavailable, "node_unreachable", "%w", ctx.Err())
	})
	wantRule(t, err, "disk_full")
}
