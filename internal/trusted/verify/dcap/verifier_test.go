package dcap_test

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/simtee"
	"cupel.dev/cupel/internal/trusted/verify/dcap"
)

func TestIntelRootIsThePublishedOne(t *testing.T) {
	const want = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
	if got := ident.Sum(dcap.IntelRoot().Raw).String(); got != want {
		t.Errorf("embedded root %s, want %s", got, want)
	}
}

func simulated(t testing.TB) *simtee.Platform {
	t.Helper()
	p, err := simtee.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNewRefusesRoots(t *testing.T) {
	intel, sim := dcap.IntelRoot(), simulated(t).Root()
	leaf := *intel
	leaf.IsCA = false
	for name, tc := range map[string]struct {
		roots dcap.Roots
		want  string
	}{
		"none":                  {dcap.Roots{}, "no root certificates"},
		"in both":               {dcap.Roots{Production: []*x509.Certificate{intel}, Simulation: []*x509.Certificate{intel}}, "for production and for simulation"},
		"simulated as real":     {dcap.Roots{Production: []*x509.Certificate{sim}}, "simulated platform's"},
		"not an authority":      {dcap.Roots{Production: []*x509.Certificate{&leaf}}, "not an authority"},
		"simulated, in both":    {dcap.Roots{Production: []*x509.Certificate{sim}, Simulation: []*x509.Certificate{sim}}, "simulated platform's"},
		"pinned and real":       {dcap.Roots{Production: []*x509.Certificate{intel}, SimulationPins: []ident.Digest{ident.Sum(intel.Raw)}}, "for production and for simulation"},
		"both kinds is allowed": {dcap.Roots{Production: []*x509.Certificate{intel}, Simulation: []*x509.Certificate{sim}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dcap.New(tc.roots)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func rule(err error) string {
	if p, ok := errors.AsType[*problem.Error](err); ok {
		return string(p.Rule)
	}
	return ""
}

func TestRefusedQuotes(t *testing.T) {
	good := captures(t)[0]
	header := func(at int, v byte) []byte {
		b := append([]byte(nil), good.evidence.Quote...)
		b[at] = v
		return b
	}
	for name, tc := range map[string]struct {
		quote []byte
		rule  string
	}{
		"empty":                     {nil, "quote_format"},
		"cut in the header":         {good.evidence.Quote[:47], "quote_format"},
		"cut in the signature":      {good.evidence.Quote[:1000], "quote_format"},
		"cut by one":                {good.evidence.Quote[:len(good.evidence.Quote)-1], "quote_format"},
		"padded":                    {append(append([]byte(nil), good.evidence.Quote...), 0), "quote_format"},
		"huge":                      {make([]byte, 1<<17), "quote_format"},
		"TDX version":               {header(0, 4), "quote_version"},
		"another key type":          {header(2, 3), "quote_format"},
		"TDX type":                  {header(4, 0x81), "quote_format"},
		"another vendor's QE":       {header(12, 0), "qe_vendor"},
		"certification data type 3": {readFile(t, filepath.Join("testdata", "vectors", "sgx-v3-ppid-certtype3", "quote.bin")), "certification_data"},
	} {
		t.Run(name, func(t *testing.T) {
			ev := evidence.Evidence{Type: evidence.SGX, Quote: tc.quote, Endorsements: good.evidence.Endorsements}
			if _, err := intelVerifier(t).Verify(ev, good.want.VerifyAt); rule(err) != tc.rule {
				t.Errorf("rule %q (%v), want %q", rule(err), err, tc.rule)
			}
		})
	}
}

func TestRefusedEvidence(t *testing.T) {
	a, b := captures(t)[0], captures(t)[1]
	for name, tc := range map[string]struct {
		ev   evidence.Evidence
		rule problem.Rule
	}{
		"another type":        {evidence.Evidence{Type: evidence.TDX, Quote: a.evidence.Quote, Endorsements: a.evidence.Endorsements}, "evidence_type"},
		"no collateral":       {evidence.Evidence{Type: evidence.SGX, Quote: a.evidence.Quote}, "collateral_format"},
		"collateral is null":  {evidence.Evidence{Type: evidence.SGX, Quote: a.evidence.Quote, Endorsements: []byte("null")}, "collateral_format"},
		"another platform's":  {evidence.Evidence{Type: evidence.SGX, Quote: a.evidence.Quote, Endorsements: b.evidence.Endorsements}, ""},
		"collateral and more": {evidence.Evidence{Type: evidence.SGX, Quote: a.evidence.Quote, Endorsements: append(append([]byte(nil), a.evidence.Endorsements...), '{')}, "collateral_format"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := intelVerifier(t).Verify(tc.ev, a.want.VerifyAt)
			if err == nil || tc.rule != "" && rule(err) != string(tc.rule) {
				t.Errorf("rule %q (%v), want %q", rule(err), err, tc.rule)
			}
		})
	}
}

// TestMemo: a verdict is kept while it holds, and only then.
func TestMemo(t *testing.T) {
	c := captures(t)[0]
	v := intelVerifier(t)
	first, err := v.Verify(c.evidence, c.want.VerifyAt)
	if err != nil {
		t.Fatal(err)
	}
	first.Advisories[0], first.Issued["tcb_info"] = "changed", time.Time{}
	again, err := v.Verify(c.evidence, c.want.VerifyAt.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if again.Advisories[0] == "changed" || again.Issued["tcb_info"].IsZero() {
		t.Error("a caller changed what the next one sees")
	}
	for name, now := range map[string]time.Time{"after the earliest expiry": first.CollateralExpires.Add(time.Second), "clock set back": first.CollateralIssued.AddDate(-1, 0, 0)} {
		if _, err := v.Verify(c.evidence, now); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestCapturesElsewhere runs over every SGX capture of a larger collection, if
// CUPEL_DCAP_VECTORS names one.
func TestCapturesElsewhere(t *testing.T) {
	dir := os.Getenv("CUPEL_DCAP_VECTORS")
	if dir == "" {
		t.Skip("CUPEL_DCAP_VECTORS names no folder of further captures")
	}
	var all map[string]manifest
	readJSON(t, filepath.Join(dir, "manifest.json"), &all)
	for name, want := range all {
		col, err := os.ReadFile(filepath.Join(dir, name, "collateral.json"))
		if err != nil || !strings.HasPrefix(name, "sgx-") {
			continue
		}
		claims, err := intelVerifier(t).Verify(evidence.Evidence{Type: evidence.SGX, Quote: readFile(t, filepath.Join(dir, name, "quote.bin")), Endorsements: col}, want.VerifyAt)
		if err != nil || claims.TCBStatus != want.TCBStatus {
			t.Errorf("%s: %s, %v", name, claims.TCBStatus, err)
		}
	}
}
