package simtee_test

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/verify/dcap"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func open(t testing.TB, dir string, now func() time.Time) *simtee.Platform {
	t.Helper()
	p, err := simtee.Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func verifier(t testing.TB, roots dcap.Roots) *dcap.Verifier {
	t.Helper()
	v, err := dcap.New(roots)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func trusting(t testing.TB, p *simtee.Platform) *dcap.Verifier {
	t.Helper()
	return verifier(t, dcap.Roots{Production: []*x509.Certificate{dcap.IntelRoot()}, Simulation: []*x509.Certificate{p.Root()}})
}

func quote(t testing.TB, p *simtee.Platform, l simtee.Launch, data evidence.Data64) evidence.Evidence {
	t.Helper()
	ev, err := p.Quote(l, data)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

var launch = simtee.Launch{
	Measurement: ident.Measurement(ident.Sum([]byte("launch"))), Signer: simtee.Signer(), ProductID: 0x1234, SVN: 7,
	ConfigID: evidence.Data64{1, 2, 3, 63: 9}, Debug: true,
}

func TestQuoteVerifies(t *testing.T) {
	c := newClock()
	p := open(t, t.TempDir(), c.now)
	data := evidence.Data64{0: 5, 63: 6}
	got, err := trusting(t, p).Verify(quote(t, p, launch, data), c.now())
	if err != nil {
		t.Fatal(err)
	}
	issued := c.now().Add(-time.Minute)
	want := evidence.Claims{
		Type: evidence.SGX, Measurement: launch.Measurement, Signer: launch.Signer, ProductID: 0x1234, SVN: 7, LaunchBinding: launch.ConfigID, ReportData: data,
		SGX:   &evidence.SGXFields{Attributes: 7, XFRM: 3},
		Debug: true, Simulated: true, Root: ident.Sum(p.Root().Raw), FMSPC: "53494d554c41", TCBStatus: "UpToDate",
		TCBDate:          time.Date(2024, 3, 13, 0, 0, 0, 0, time.UTC),
		CollateralIssued: issued, CollateralExpires: issued.AddDate(0, 0, 30), EvaluationNumber: 17,
		Issued: evidence.IssueDates{"tcb_info": issued, "qe_identity": issued, "root_crl": issued, "pck_crl_processor": issued},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	production := launch
	production.Debug = false
	if got, err = trusting(t, p).Verify(quote(t, p, production, data), c.now()); err != nil || got.Debug || !got.Simulated {
		t.Errorf("not debug: debug %v, simulated %v, %v", got.Debug, got.Simulated, err)
	}
}

// TestNotBelievedByDefault: the root has to be given as a simulation root.
func TestNotBelievedByDefault(t *testing.T) {
	c := newClock()
	p, other := open(t, t.TempDir(), c.now), open(t, t.TempDir(), c.now)
	for name, v := range map[string]*dcap.Verifier{
		"hardware only":          verifier(t, dcap.Roots{Production: []*x509.Certificate{dcap.IntelRoot()}}),
		"another installation's": trusting(t, other),
	} {
		_, err := v.Verify(quote(t, p, launch, evidence.Data64{}), c.now())
		refusal, ok := errors.AsType[*problem.Error](err)
		if !ok || refusal.Rule != "simulation_root" || refusal.Kind != problem.Unauthenticated || !strings.Contains(refusal.Mend, "--trust-simulation") {
			t.Errorf("%s: %v", name, err)
		}
		if ok && !strings.Contains(refusal.Actual, ident.Sum(p.Root().Raw).String()) {
			t.Errorf("%s: the refusal does not name the root: %s", name, refusal.Actual)
		}
	}
}

// TestPinnedRoot: the SHA-256 of the root is enough to opt in.
func TestPinnedRoot(t *testing.T) {
	c := newClock()
	p := open(t, t.TempDir(), c.now)
	v := verifier(t, dcap.Roots{SimulationPins: []ident.Digest{ident.Sum(p.Root().Raw)}})
	claims, err := v.Verify(quote(t, p, launch, evidence.Data64{}), c.now())
	if err != nil || !claims.Simulated {
		t.Errorf("simulated %v, %v", claims.Simulated, err)
	}
	if _, err := v.Verify(quote(t, open(t, t.TempDir(), c.now), launch, evidence.Data64{}), c.now()); err == nil {
		t.Error("another root accepted")
	}
}

// TestEveryNameSaysSimulated: subject names are what a person sees of a chain.
func TestEveryNameSaysSimulated(t *testing.T) {
	p := open(t, t.TempDir(), newClock().now)
	ev := quote(t, p, launch, evidence.Data64{})
	if n := strings.Count(p.Root().Subject.String(), dcap.SimulationMark); n < 2 {
		t.Errorf("root %q", p.Root().Subject)
	}
	col, err := dcap.ParseCollateral(ev.Endorsements)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{col.TCBInfoIssuerChain, col.QEIdentityIssuerChain, col.PCKCRLIssuerChain, string(ev.Quote[1014+32+6:])} {
		for _, c := range certificates(t, text) {
			if !strings.HasPrefix(c.Subject.CommonName, "SIMULATED ") {
				t.Errorf("certificate %q", c.Subject)
			}
		}
	}
}

// TestConditions: what is wrong with a platform is found, as an error or as a
// status, whichever it should be.
func TestConditions(t *testing.T) {
	c := newClock()
	healthy := open(t, t.TempDir(), c.now)
	v := trusting(t, healthy)
	for name, tc := range map[string]struct {
		condition  simtee.Condition
		rule       string
		status     string
		advisories []string
		evaluation int
	}{
		"healthy":                {status: "UpToDate", evaluation: 17},
		"hardening":              {condition: simtee.Condition{TCBStatus: "SWHardeningNeeded", Advisories: []string{"INTEL-SA-00615", "INTEL-SA-00334"}}, status: "SWHardeningNeeded", advisories: []string{"INTEL-SA-00334", "INTEL-SA-00615"}, evaluation: 17},
		"out of date":            {condition: simtee.Condition{TCBStatus: "OutOfDate"}, status: "OutOfDate", evaluation: 17},
		"revoked TCB":            {condition: simtee.Condition{TCBStatus: "Revoked"}, status: "Revoked", evaluation: 17},
		"old quoting enclave":    {condition: simtee.Condition{QEStatus: "OutOfDate"}, status: "OutOfDate", evaluation: 17},
		"old QE, configuration":  {condition: simtee.Condition{TCBStatus: "ConfigurationNeeded", QEStatus: "OutOfDate"}, status: "OutOfDateConfigurationNeeded", evaluation: 17},
		"revoked QE":             {condition: simtee.Condition{QEStatus: "Revoked"}, status: "Revoked", evaluation: 17},
		"older evaluation":       {condition: simtee.Condition{Evaluation: 16}, status: "UpToDate", evaluation: 16},
		"unknown status":         {condition: simtee.Condition{TCBStatus: "Splendid"}, rule: "tcb_info"},
		"below every level":      {condition: simtee.Condition{BelowTCB: true}, rule: "tcb_level"},
		"revoked PCK":            {condition: simtee.Condition{RevokedPCK: true}, rule: "pck_revoked"},
		"revoked PCK CA":         {condition: simtee.Condition{RevokedCA: true}, rule: "pck_ca_revoked"},
		"revoked signer":         {condition: simtee.Condition{RevokedSigner: true}, rule: "tcb_info_chain_revoked"},
		"expired collateral":     {condition: simtee.Condition{IssuedAt: c.now().AddDate(0, 0, -31)}, rule: "root_crl_expired"},
		"collateral from beyond": {condition: simtee.Condition{IssuedAt: c.now().Add(time.Hour)}, rule: "root_crl_expired"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := healthy.In(tc.condition)
			if err != nil {
				t.Fatal(err)
			}
			claims, err := v.Verify(quote(t, p, launch, evidence.Data64{}), c.now())
			if tc.rule != "" {
				if refusal, ok := errors.AsType[*problem.Error](err); !ok || string(refusal.Rule) != tc.rule {
					t.Errorf("error %v, want rule %s", err, tc.rule)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if claims.TCBStatus != tc.status || claims.EvaluationNumber != tc.evaluation || cmp.Diff(tc.advisories, claims.Advisories) != "" && len(tc.advisories)+len(claims.Advisories) > 0 {
				t.Errorf("status %s, advisories %v, evaluation %d", claims.TCBStatus, claims.Advisories, claims.EvaluationNumber)
			}
		})
	}
}

// TestCollateralStaysFresh: issued again at half its life, and after a clock
// was set back.
func TestCollateralStaysFresh(t *testing.T) {
	c := newClock()
	p := open(t, t.TempDir(), c.now)
	v := trusting(t, p)
	first := quote(t, p, launch, evidence.Data64{})
	c.add(14 * 24 * time.Hour)
	if second := quote(t, p, launch, evidence.Data64{}); string(second.Endorsements) != string(first.Endorsements) {
		t.Error("issued again before half its life")
	}
	for _, step := range []time.Duration{2 * 24 * time.Hour, 365 * 24 * time.Hour, -200 * 24 * time.Hour} {
		c.add(step)
		if _, err := v.Verify(quote(t, p, launch, evidence.Data64{}), c.now()); err != nil {
			t.Errorf("after %v: %v", step, err)
		}
	}
}

func TestStateSurvives(t *testing.T) {
	c, dir := newClock(), filepath.Join(t.TempDir(), "platform")
	a := open(t, dir, c.now)
	info, err := os.Stat(filepath.Join(dir, "platform.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("state file: %v, %v", info, err)
	}
	b := open(t, dir, c.now)
	if string(a.RootPEM()) != string(b.RootPEM()) {
		t.Error("another root after opening again")
	}
	if _, err := trusting(t, a).Verify(quote(t, b, launch, evidence.Data64{}), c.now()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("state folder: %v, %v", left, err)
	}
}

// TestOneStateForAll: many open a new folder at once and agree.
func TestOneStateForAll(t *testing.T) {
	dir := t.TempDir()
	roots := make([]string, 8)
	var wg sync.WaitGroup
	for i := range roots {
		wg.Go(func() {
			if p, err := simtee.Open(dir, time.Now); err == nil {
				roots[i] = string(p.RootPEM())
			}
		})
	}
	wg.Wait()
	for _, r := range roots {
		if r == "" || r != roots[0] {
			t.Fatal("the openers do not agree on a root")
		}
	}
}

func TestBadState(t *testing.T) {
	for name, content := range map[string]string{"no JSON": "x", "of the future": `{"version":2}`, "no keys": `{"version":1}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "platform.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := simtee.Open(dir, time.Now); err == nil || !strings.Contains(err.Error(), "platform.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQuoteConcurrently(t *testing.T) {
	p := open(t, t.TempDir(), time.Now)
	v := trusting(t, p)
	var wg sync.WaitGroup
	for i := range byte(8) {
		wg.Go(func() {
			ev, err := p.Quote(launch, evidence.Data64{i})
			if err != nil {
				t.Error(err)
				return
			}
			if c, err := v.Verify(ev, time.Now()); err != nil || c.ReportData[0] != i {
				t.Errorf("%v, %v", c.ReportData, err)
			}
		})
	}
	wg.Wait()
}

func BenchmarkQuote(b *testing.B) {
	p := open(b, b.TempDir(), time.Now)
	for b.Loop() {
		if _, err := p.Quote(launch, evidence.Data64{}); err != nil {
			b.Fatal(err)
		}
	}
}
