package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/owners"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/client"
	"cupel.dev/cupel/internal/simtee"
)

func (f *fake) expectation() client.Expectation {
	return client.Expectation{
		Identities:      []evidence.CodeIdentity{{Measurements: []ident.Measurement{f.code}}},
		TrustSimulation: []ident.Digest{ident.Sum(f.platform.Root().Raw)},
	}
}

func (f *fake) client(opts client.CASOptions) *client.CAS {
	f.t.Helper()
	c, err := client.NewCAS(ident.Address(f.addr), opts)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(c.Close)
	return c
}

// attested returns a client that has attested the CAS.
func (f *fake) attested(opts client.CASOptions) *client.CAS {
	f.t.Helper()
	c := f.client(opts)
	if _, err := c.Attest(f.t.Context(), f.expectation()); err != nil {
		f.t.Fatal(err)
	}
	return c
}

func wantRule(t *testing.T, err error, rule problem.Rule) {
	t.Helper()
	if p, ok := errors.AsType[*problem.Error](err); !ok || p.Rule != rule {
		t.Errorf("error %v, want rule %s", err, rule)
	}
}

func TestAttest(t *testing.T) {
	f := newFake(t)
	var saved []client.Pin
	c := f.client(client.CASOptions{Save: func(p client.Pin) error { saved = append(saved, p); return nil }})
	a, err := c.Attest(t.Context(), f.expectation())
	if err != nil {
		t.Fatal(err)
	}
	if a.Pin.Identity != ident.HashCertKey(f.cert) || a.Pin.Head.Seq != 3 || !a.Claims.Simulated || !a.Decision.Accepted || a.Since != 0 {
		t.Errorf("attestation %+v", a)
	}
	if len(saved) != 1 || saved[0].Identity != a.Pin.Identity {
		t.Errorf("saved %+v", saved)
	}
	f.append(5)
	again := f.client(client.CASOptions{Pin: &saved[0]})
	if a, err = again.Attest(t.Context(), f.expectation()); err != nil || a.Since != 3 || a.Pin.Head.Seq != 8 {
		t.Errorf("attested again: %+v, %v", a, err)
	}
}

// TestAttestRefuses: one lie at a time.
func TestAttestRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		lie    func(*fake)
		expect func(*client.Expectation)
		rule   string
	}{
		"another build":           {lie: func(f *fake) { f.launch = func(l *simtee.Launch) { l.Measurement[0] ^= 1 } }, rule: "measurement"},
		"launched for a session":  {lie: func(f *fake) { f.launch = func(l *simtee.Launch) { l.ConfigID[0] = 1 } }, rule: "config_id"},
		"an old quote":            {lie: func(f *fake) { f.attestation = swapQuote(f) }, rule: "report_data"},
		"no expectation":          {expect: func(e *client.Expectation) { e.Identities = nil }, rule: "policy"},
		"simulation not trusted":  {expect: func(e *client.Expectation) { e.TrustSimulation = nil }, rule: "simulation_root"},
		"another simulation root": {expect: func(e *client.Expectation) { e.TrustSimulation = []ident.Digest{{1}} }, rule: "simulation_root"},
		"clock behind":            {lie: func(f *fake) { f.clock = -6 * time.Minute }, rule: "cas_clock"},
		"clock ahead":             {lie: func(f *fake) { f.clock = 6 * time.Minute }, rule: "cas_clock"},
		"head by another key":     {lie: func(f *fake) { f.head = func(h *owners.SignedHead) { h.Seq++ } }, rule: "audit_head_signature"},
		"no head":                 {lie: func(f *fake) { f.head = func(h *owners.SignedHead) { *h = owners.SignedHead{} } }, rule: "audit_head_signature"},
		"another version":         {lie: func(f *fake) { f.attestation = func(a *owners.Attestation) { a.Version = 2 } }, rule: "reply"},
		"no identity":             {lie: func(f *fake) { f.attestation = func(a *owners.Attestation) { a.IdentityCertificate = "" } }, rule: "cas_identity"},
		"another identity":        {lie: func(f *fake) { f.attestation = otherIdentity(f.t) }, rule: "cas_identity"},
		"revoked platform":        {lie: func(f *fake) { f.condition(simtee.Condition{RevokedPCK: true}) }, rule: "pck_revoked"},
		"outdated platform":       {lie: func(f *fake) { f.condition(simtee.Condition{TCBStatus: "OutOfDate"}) }, rule: "tcb_status"},
		"tampered quote":          {lie: func(f *fake) { f.attestation = func(a *owners.Attestation) { a.Evidence.Quote[100] ^= 1 } }, rule: "quote_signature"},
		"the CAS refuses":         {lie: func(f *fake) { f.refuse = problem.New(problem.Unavailable, "evidence", "no platform") }, rule: "evidence"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			if tc.lie != nil {
				tc.lie(f)
			}
			e := f.expectation()
			if tc.expect != nil {
				tc.expect(&e)
			}
			saved := false
			c := f.client(client.CASOptions{Save: func(client.Pin) error { saved = true; return nil }})
			_, err := c.Attest(t.Context(), e)
			wantRule(t, err, problem.Rule(tc.rule))
			if _, pinned := c.Pin(); pinned || saved {
				t.Error("pinned all the same")
			}
		})
	}
}

func (f *fake) condition(c simtee.Condition) {
	p, err := f.platform.In(c)
	if err != nil {
		f.t.Fatal(err)
	}
	f.platform = p
}

func swapQuote(f *fake) func(*owners.Attestation) {
	return func(a *owners.Attestation) {
		ev, err := f.platform.Quote(simtee.Launch{Measurement: f.code, Debug: true}, evidence.Data64{1})
		if err != nil {
			f.t.Error(err)
		}
		a.Evidence = ev
	}
}

func otherIdentity(t *testing.T) func(*owners.Attestation) {
	key := newKey(t)
	cert := certify(t, &x509.Certificate{Subject: pkix.Name{CommonName: "CAS"}}, nil, &key.PublicKey, key)
	return func(a *owners.Attestation) {
		a.IdentityCertificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
}

func TestCalls(t *testing.T) {
	f := newFake(t)
	key := newKey(t)
	own := certify(t, &x509.Certificate{Subject: pkix.Name{CommonName: "owner"}}, nil, &key.PublicKey, key)
	c := f.attested(client.CASOptions{Certificate: &tls.Certificate{Certificate: [][]byte{own.Raw}, PrivateKey: key}})
	ctx := t.Context()
	if created, err := c.CreateSession(ctx, []byte("text")); err != nil || created.Hash != ident.Sum([]byte("text")) {
		t.Errorf("create: %+v, %v", created, err)
	}
	hash := ident.Sum([]byte("text"))
	if s, err := c.ReadSession(ctx, "ns/s", &hash); err != nil || s.Text != "text" {
		t.Errorf("read: %+v, %v", s, err)
	}
	if _, err := c.ReadSession(ctx, "ns/s", &ident.Digest{}); err == nil {
		t.Error("another version than asked for was taken")
	}
	if v, err := c.Values(ctx, "s"); err != nil || v["ca"].Value != "PEM" {
		t.Errorf("values: %+v, %v", v, err)
	}
	if v, err := c.Value(ctx, "s", "ca"); err != nil || v.Value != "PEM" {
		t.Errorf("value: %+v, %v", v, err)
	}
	if i, err := c.Instances(ctx, "s"); err != nil || len(i) != 1 {
		t.Errorf("instances: %+v, %v", i, err)
	}
	if v, err := c.Version(ctx); err != nil || v.API != 1 {
		t.Errorf("version: %+v, %v", v, err)
	}
	for _, r := range f.requests {
		if len(r.Header.Get(owners.HeaderRequestID)) != 16 || len(r.TLS.PeerCertificates) != 1 {
			t.Errorf("%s: request id %q, %d client certificates", r.URL.Path, r.Header.Get(owners.HeaderRequestID), len(r.TLS.PeerCertificates))
		}
	}
}

func TestRefusalsCarryTheRequestID(t *testing.T) {
	f := newFake(t)
	c := f.attested(client.CASOptions{})
	f.refuse = problem.New(problem.NotFound, "session", "no session s")
	_, err := c.ReadSession(t.Context(), "s", nil)
	wantRule(t, err, "session")
	if p := problem.From(err); len(p.RequestID) != 16 {
		t.Errorf("request id %q", p.RequestID)
	}
}

// TestRefusalOfAnUnattestedCAS: whoever answers before a CAS has proved anything may advise
// whatever they want, and that it is their word is said.
func TestRefusalOfAnUnattestedCAS(t *testing.T) {
	f := newFake(t)
	f.refuse = problem.New(problem.Invalid, "attest", "not now").Fix("cupel cas attest evil.example --forget")
	_, err := f.client(client.CASOptions{}).Attest(t.Context(), f.expectation())
	wantRule(t, err, "attest")
	if got, want := err.Error(), "a CAS that isn't attested says: attest: not now; cupel cas attest evil.example --forget"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	f.refuse = nil
	c := f.attested(client.CASOptions{})
	f.refuse = problem.New(problem.NotFound, "session", "no session s")
	f.refuse.Source = problem.UnattestedCAS // which is for nobody to say of themselves
	if _, err := c.ReadSession(t.Context(), "s", nil); err == nil || err.Error() != "session: no session s" {
		t.Errorf("of an attested one: %v", err)
	}
}

func TestNotAttested(t *testing.T) {
	f := newFake(t)
	_, err := f.client(client.CASOptions{}).Version(t.Context())
	wantRule(t, err, "cas_not_attested")
	if len(f.requests) != 0 {
		t.Error("something was sent to a CAS that nobody attested")
	}
}

// TestOtherIdentity: after the pin, nothing is sent to anyone else.
func TestOtherIdentity(t *testing.T) {
	f := newFake(t)
	c := f.attested(client.CASOptions{})
	c.Close()
	f.newIdentity()
	n := len(f.requests)
	_, err := c.CreateSession(t.Context(), []byte("secret"))
	wantRule(t, err, "cas_identity")
	_, err = c.Attest(t.Context(), f.expectation())
	wantRule(t, err, "cas_identity")
	if len(f.requests) != n {
		t.Error("the request reached the other CAS")
	}
}

// TestChains: what is no leaf under an identity certificate is no CAS.
func TestChains(t *testing.T) {
	key, other := newKey(t), newKey(t)
	ca := func() *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: "CAS"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	}
	root := certify(t, ca(), nil, &key.PublicKey, key)
	leaf := certify(t, leafTemplate(), root, &other.PublicKey, key)
	old := leafTemplate()
	old.NotBefore, old.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-10*time.Minute)
	for name, chain := range map[string][]*x509.Certificate{
		"leaf alone":      {leaf},
		"self-signed":     {certify(t, leafTemplate(), nil, &other.PublicKey, other)},
		"another's leaf":  {certify(t, leafTemplate(), certify(t, ca(), nil, &other.PublicKey, other), &other.PublicKey, other), root},
		"expired leaf":    {certify(t, old, root, &other.PublicKey, key), root},
		"the root itself": {root, root},
	} {
		t.Run(name, func(t *testing.T) {
			certs := tls.Certificate{PrivateKey: other}
			if name == "the root itself" {
				certs.PrivateKey = key
			}
			for _, c := range chain {
				certs.Certificate = append(certs.Certificate, c.Raw)
			}
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.TLS = &tls.Config{Certificates: []tls.Certificate{certs}, MinVersion: tls.VersionTLS13}
			s.StartTLS()
			defer s.Close()
			c, err := client.NewCAS(ident.Address(s.Listener.Addr().String()), client.CASOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Attest(t.Context(), client.Expectation{})
			wantRule(t, err, "cas_chain")
		})
	}
}

// TestLogMustContinue: the kept head refuses every log that does not lead on
// from it, also when that log has grown longer.
func TestLogMustContinue(t *testing.T) {
	for name, tc := range map[string]struct {
		lie  func(*fake)
		rule problem.Rule
	}{
		"put back":            {func(f *fake) { f.cut(2) }, "audit_log_older"},
		"forked, same length": {func(f *fake) { f.rewrite(1) }, "audit_log_forked"},
		"forked and longer":   {func(f *fake) { f.rewrite(1); f.append(4) }, "audit_log_forked"},
		"put back and longer": {func(f *fake) { f.cut(1); f.append(9) }, "audit_log_forked"},
		"entries withheld":    {func(f *fake) { f.append(4); f.page = func(p *owners.LogPage) { p.Entries = nil } }, "audit_log_cut"},
		"entries repeated": {func(f *fake) {
			f.append(4)
			f.page = func(p *owners.LogPage) { p.Entries = p.Entries[:1]; p.Entries[0].Seq = 1 }
		}, "audit_log_gap"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			saved := 0
			c := f.attested(client.CASOptions{Save: func(client.Pin) error { saved++; return nil }})
			tc.lie(f)
			_, err := c.Version(t.Context())
			wantRule(t, err, tc.rule)
			if pin, _ := c.Pin(); pin.Head.Seq != 3 || saved != 1 {
				t.Errorf("the kept head moved to %d", pin.Head.Seq)
			}
		})
	}
}

func TestHeadMovesOn(t *testing.T) {
	f := newFake(t)
	var last client.Pin
	c := f.attested(client.CASOptions{Save: func(p client.Pin) error { last = p; return nil }})
	f.append(7)
	if _, err := c.Version(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last.Head.Seq != 10 {
		t.Errorf("saved head %d", last.Head.Seq)
	}
	failing := f.client(client.CASOptions{Pin: &last, Save: func(client.Pin) error { return errors.New("disk full") }})
	f.append(1)
	if _, err := failing.Version(t.Context()); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("a head that can't be kept: %v", err)
	}
}

func TestVerifyLog(t *testing.T) {
	f := newFake(t)
	c := f.attested(client.CASOptions{})
	kept, _ := c.Pin()
	f.append(6)
	var seen []uint64
	check, err := c.VerifyLog(t.Context(), nil, func(e owners.Entry) error { seen = append(seen, e.Seq); return nil })
	if err != nil || check.Entries != 9 || check.To.Seq != 9 || len(seen) != 9 {
		t.Errorf("from the beginning: %+v, %v, %v", check, seen, err)
	}
	if check, err = c.VerifyLog(t.Context(), &kept.Head, nil); err != nil || check.Entries != 6 || check.From.Seq != 3 {
		t.Errorf("since a head: %+v, %v", check, err)
	}
	forged := kept.Head
	forged.Hash[0] ^= 1
	_, err = c.VerifyLog(t.Context(), &forged, nil)
	wantRule(t, err, "audit_head_signature")
	future := check.To
	f.cut(4)
	_, err = f.client(client.CASOptions{Pin: &client.Pin{Identity: kept.Identity}}).VerifyLog(t.Context(), &future, nil)
	wantRule(t, err, "audit_log_older")
}

// TestUnreachable: tried again for a while, then a clear end.
func TestUnreachable(t *testing.T) {
	f := newFake(t)
	c := f.attested(client.CASOptions{Patience: 200 * time.Millisecond})
	f.server.Close()
	_, err := c.Version(t.Context())
	wantRule(t, err, "cas_unreachable")
	if problem.KindOf(err) != problem.Unavailable || problem.From(err).Mend == "" {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Version(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestSlowAnswer: a CAS that takes a call and never answers, and one whose answer drips, are
// given up, and the message says what was waited for; --wait is only for one that is out
// of reach. What may have been done is said so.
func TestSlowAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		begins     bool
		call       func(context.Context, *client.CAS) error
		rule       string
		says, want string
	}{
		"never": {
			false, func(ctx context.Context, c *client.CAS) error {
				_, err := c.Attest(ctx, client.Expectation{})
				return err
			},
			"cas_unreachable", "does not answer: net/http: timeout awaiting response headers",
			"the beginning of an answer within 1 minute of taking the request; --wait doesn't shorten that: the CAS may be at work",
		},
		"drips": {
			true, func(ctx context.Context, c *client.CAS) error {
				_, err := c.Attest(ctx, client.Expectation{})
				return err
			},
			"cas_unreachable", " came, and not the rest in time",
			"the rest of the answer, or at least 128 KiB more of it, within 100 ms",
		},
		"drips of a change": {
			true, func(ctx context.Context, c *client.CAS) error {
				_, err := c.RemoveSession(ctx, "alice/shop")
				return err
			},
			"cas_answer_lost", "came, and not the rest in time; it may have done what it was asked for", "an answer",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			cas := f.attested(client.CASOptions{Patience: time.Millisecond})
			begin := 100 * time.Millisecond
			if c.begins {
				begin = 10 * time.Second
			}
			client.Shorten(t, cas, begin, 100*time.Millisecond)
			f.mu.Lock()
			f.drips = func(w http.ResponseWriter, gone <-chan struct{}) {
				for c.begins {
					if _, err := w.Write([]byte(" ")); err != nil || http.NewResponseController(w).Flush() != nil {
						return
					}
					time.Sleep(time.Millisecond)
				}
				<-gone
			}
			f.mu.Unlock()
			err := c.call(t.Context(), cas)
			wantRule(t, err, problem.Rule(c.rule))
			if p := problem.From(err); !strings.Contains(p.Actual, c.says) || p.Expected != c.want || p.Mend == "" {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestNoOwnersAPI: what answers at a wrong port is said to be none, at once, and is no
// fault of Cupel's.
func TestNoOwnersAPI(t *testing.T) {
	f := newFake(t)
	for _, c := range []struct {
		refuse     *problem.Error
		rule, want string
	}{
		{problem.New(problem.NotFound, "path", "there is nothing at /v1/attest"), "cas_address", "perhaps the one for instances"},
		{&problem.Error{}, "cas_address", "is no CAS: status 500"},
	} {
		f.refuse = c.refuse
		_, err := f.client(client.CASOptions{}).Attest(t.Context(), client.Expectation{})
		wantRule(t, err, problem.Rule(c.rule))
		if problem.KindOf(err) == problem.Internal || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), client.DefaultPort) {
			t.Errorf("%v", err)
		}
	}

	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	c, err := client.NewCAS(ident.Address(plain.Listener.Addr().String()), client.CASOptions{
		Patience: time.Hour, Waiting: func(error) { t.Error("an answer without TLS is waited for") },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Attest(t.Context(), client.Expectation{})
	wantRule(t, err, "cas_address")
	if !strings.Contains(err.Error(), "speaks no TLS") {
		t.Errorf("%v", err)
	}
}

// TestNoSuchHost: a name that no host has ends at once, unless somebody waits for it.
func TestNoSuchHost(t *testing.T) {
	for _, atOnce := range []bool{true, false} {
		waited := false
		c, err := client.NewCAS("no..name", client.CASOptions{ // no resolver has to be asked
			Patience: 200 * time.Millisecond, RefusedAtOnce: atOnce, Waiting: func(error) { waited = true },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.Attest(t.Context(), client.Expectation{})
		wantRule(t, err, "cas_unreachable")
		if waited == atOnce || atOnce != strings.Contains(err.Error(), "no host has the name in no..name:8081") {
			t.Errorf("at once %t: waited %t: %v", atOnce, waited, err)
		}
	}
}

// TestRestart: a CAS that comes back within the patience is no error.
func TestRestart(t *testing.T) {
	f := newFake(t)
	c := f.attested(client.CASOptions{Patience: 10 * time.Second})
	f.server.Close()
	go func() {
		time.Sleep(150 * time.Millisecond)
		f.start(f.addr)
	}()
	if _, err := c.CreateSession(t.Context(), []byte("text")); err != nil {
		t.Error(err)
	}
}

// TestLostAnswer: what would do more the second time is not done again once it may have
// reached the CAS; everything else is.
func TestLostAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		call  func(*client.CAS) error
		asked int
		mend  string
	}{
		"grant": {func(c *client.CAS) error {
			_, err := c.MakeGrant(t.Context(), owners.NewGrant{Session: "alice/shop"})
			return err
		}, 1, "cupel session grants alice/shop "},
		"reset": {func(c *client.CAS) error {
			_, err := c.ResetVolume(t.Context(), "alice/shop", "genesis")
			return err
		}, 1, "cupel audit verify --show"},
		"rotation": {func(c *client.CAS) error {
			_, err := c.Rotate(t.Context(), owners.Rotate{Session: "alice/shop", Secrets: []string{"password"}})
			return err
		}, 1, "cupel session rotate alice/shop"},
		"removal": {func(c *client.CAS) error {
			_, err := c.RemoveSession(t.Context(), "alice/shop")
			return err
		}, 1, "cupel session read alice/shop"},
		"session": {func(c *client.CAS) error {
			_, err := c.CreateSession(t.Context(), []byte("text"))
			return err
		}, 2, ""},
	} {
		f := newFake(t)
		cas := f.attested(client.CASOptions{Patience: 10 * time.Second})
		f.mu.Lock()
		f.silent, f.requests = 1, nil
		f.mu.Unlock()
		err := c.call(cas)
		if p := problem.From(err); (err != nil) != (c.mend != "") || err != nil && (p.Rule != "cas_answer_lost" || p.Kind != problem.Unavailable || !strings.Contains(p.Mend, c.mend)) {
			t.Errorf("%s: %v", name, err)
		}
		if len(f.requests) != c.asked {
			t.Errorf("%s: asked %d times, want %d", name, len(f.requests), c.asked)
		}
	}

	f := newFake(t)
	c := f.attested(client.CASOptions{Patience: 200 * time.Millisecond})
	f.server.Close()
	_, err := c.MakeGrant(t.Context(), owners.NewGrant{Session: "alice/shop"})
	wantRule(t, err, "cas_unreachable")
}

func TestConcurrentCalls(t *testing.T) {
	f := newFake(t)
	c := f.attested(client.CASOptions{Save: func(client.Pin) error { return nil }})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			f.append(1)
			if _, err := c.Version(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := c.Version(t.Context()); err != nil {
		t.Error(err)
	}
	if pin, _ := c.Pin(); pin.Head.Seq != 19 {
		t.Errorf("head %d", pin.Head.Seq)
	}
}

func TestAddresses(t *testing.T) {
	for addr, want := range map[string]string{
		"cas": "cas:8081", "cas:9": "cas:9", "10.0.0.1": "10.0.0.1:8081", "::1": "[::1]:8081", "[::1]": "[::1]:8081", "[::1]:7": "[::1]:7",
		" cas:9\n": "cas:9", " ": "", "": "", "https://cas": "", "cas/x": "", "a b": "",
		"cas:99999": "", "cas:0": "", "cas:": "", "cas:https": "", "cas:-1": "", "cas:65535": "cas:65535",
	} {
		c, err := client.NewCAS(ident.Address(addr), client.CASOptions{})
		if (err == nil) != (want != "") {
			t.Errorf("%q: %v", addr, err)
			continue
		}
		if err == nil && c.Address() != ident.Address(want) {
			t.Errorf("%q: %s, want %s", addr, c.Address(), want)
		}
	}
}
