package dcap_test

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/verify/dcap"
)

// capture is one quote of real hardware, with the collateral of its day.
type capture struct {
	name     string
	evidence evidence.Evidence
	want     manifest
}

type manifest struct {
	Advisories  []string        `json:"advisory_ids"`
	Debug       bool            `json:"debug"`
	FMSPC       string          `json:"fmspc"`
	ProductID   uint16          `json:"isv_prod_id"`
	SVN         uint16          `json:"isv_svn"`
	Measurement string          `json:"mrenclave"`
	Signer      string          `json:"mrsigner"`
	ReportData  evidence.Data64 `json:"report_data"`
	TCBDate     time.Time       `json:"tcb_date"`
	Evaluation  int             `json:"tcb_eval_num"`
	TCBStatus   string          `json:"tcb_status"`
	VerifyAt    time.Time       `json:"verify_at"`
}

func captures(t testing.TB) []capture {
	t.Helper()
	var all map[string]manifest
	readJSON(t, filepath.Join("testdata", "vectors", "manifest.json"), &all)
	var out []capture
	for _, name := range []string{"sgx-v3-confswhardening", "sgx-v3-swhardening"} {
		want, ok := all[name]
		if !ok {
			t.Fatalf("manifest has no %s", name)
		}
		dir := filepath.Join("testdata", "vectors", name)
		out = append(out, capture{name, evidence.Evidence{
			Type: evidence.SGX, Quote: readFile(t, filepath.Join(dir, "quote.bin")), Endorsements: readFile(t, filepath.Join(dir, "collateral.json")),
		}, want})
	}
	return out
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, name), v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func intelVerifier(t testing.TB) *dcap.Verifier {
	t.Helper()
	v, err := dcap.New(dcap.Roots{Production: []*x509.Certificate{dcap.IntelRoot()}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCaptures(t *testing.T) {
	for _, c := range captures(t) {
		t.Run(c.name, func(t *testing.T) {
			claims, err := intelVerifier(t).Verify(c.evidence, c.want.VerifyAt)
			if err != nil {
				t.Fatal(err)
			}
			got := manifest{
				Advisories: claims.Advisories, Debug: claims.Debug, FMSPC: claims.FMSPC, ProductID: claims.ProductID, SVN: claims.SVN,
				Measurement: claims.Measurement.String(), Signer: claims.Signer.String(), ReportData: claims.ReportData,
				TCBDate: claims.TCBDate, Evaluation: claims.EvaluationNumber, TCBStatus: claims.TCBStatus, VerifyAt: c.want.VerifyAt,
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
			if claims.Simulated {
				t.Error("real hardware taken for simulated")
			}
			if len(claims.Issued) != 4 || !claims.CollateralIssued.Equal(claims.Issued.Oldest()) {
				t.Errorf("issue dates: %v", claims.Issued)
			}
		})
	}
}

func TestCapturesOutsideTheirDates(t *testing.T) {
	for _, c := range captures(t) {
		t.Run(c.name, func(t *testing.T) {
			v := intelVerifier(t)
			claims, err := v.Verify(c.evidence, c.want.VerifyAt)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Verify(c.evidence, claims.CollateralExpires); err != nil {
				t.Errorf("at the last instant: %v", err)
			}
			for _, now := range []time.Time{claims.CollateralExpires.Add(time.Second), time.Now(), c.want.VerifyAt.AddDate(-1, 0, 0), {}} {
				if _, err := v.Verify(c.evidence, now); problem.KindOf(err) != problem.Unauthenticated {
					t.Errorf("at %s: %v", now, err)
				}
			}
		})
	}
}
