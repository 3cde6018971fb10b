// Package attest defines what is passed between those who make evidence and
// those who judge it (RFC 9334): Evidence before verification, Claims after it.
// Types only: dcap (and later snp, tpm) verify, collect gathers, appraise judges.
package attest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"cupel.dev/cupel/internal/trusted/ident"
)

// Type is the kind of evidence.
type Type string

// Kinds of evidence.
// The kinds of evidence.
const (
	SGX Type = "sgx"
	TDX Type = "tdx"
	SNP Type = "snp"
	TPM Type = "tpm"
)

// Evidence is what an attester hands over. Quote is the platform's own signed
// structure; Endorsements is what its maker published about it, in the form
// that the verifier of this Type reads (dcap: dcap.Collateral).
type Evidence struct {
	Type         Type            `json:"type"`
	Quote        []byte          `json:"quote"`
	Endorsements json.RawMessage `json:"endorsements,omitempty"`
}

// Data64 is a 64-byte field that the attested code or its launcher chose:
// REPORTDATA or CONFIGID. Text form: 128 hex digits.
type Data64 [64]byte

func (d Data64) String() string               { return hex.EncodeToString(d[:]) }
func (d Data64) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
func (d *Data64) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != len(d) {
		return fmt.Errorf("want %d hex digits", 2*len(d))
	}
	copy(d[:], raw)
	return nil
}

// Claims is what verification of one piece of evidence proved. Nothing in it
// has been compared with anyone's expectation yet.
type Claims struct {
	Type        Type              `json:"type"`
	Measurement ident.Measurement `json:"measurement"` // MRENCLAVE
	Signer      ident.Measurement `json:"signer"`      // MRSIGNER
	ProductID   uint16            `json:"product_id"`
	SVN         uint16            `json:"svn"`
	ConfigID    Data64            `json:"config_id"`
	ReportData  Data64            `json:"report_data"`
	Debug       bool              `json:"debug"`
	Simulated   bool              `json:"simulated"` // the chain ends in a root that was given as a simulation root
	Root        ident.Digest      `json:"root"`      // SHA-256 of that root certificate in DER
	FMSPC       string            `json:"fmspc"`     // 12 hex digits
	TCBStatus   string            `json:"tcb_status"`
	Advisories  []string          `json:"advisories,omitempty"`
	TCBDate     time.Time         `json:"tcb_date"`
	// CollateralIssued is the oldest issue date and CollateralExpires the
	// earliest expiry over everything that was checked; EvaluationNumber the
	// lowest tcbEvaluationDataNumber.
	CollateralIssued  time.Time `json:"collateral_issued"`
	CollateralExpires time.Time `json:"collateral_expires"`
	EvaluationNumber  int       `json:"evaluation_number"`
	// Issued is when each endorsement was issued, so that a verifier with a
	// memory can refuse an older one than it has seen, document by document.
	Issued IssueDates `json:"issued,omitempty"`
}

// IssueDates maps an endorsement's name ("tcb_info", "root_crl") to its date.
type IssueDates map[string]time.Time

// Oldest returns the earliest date; zero if there is none.
func (d IssueDates) Oldest() (oldest time.Time) {
	for _, t := range d {
		if oldest.IsZero() || t.Before(oldest) {
			oldest = t
		}
	}
	return oldest
}

// Clone returns a copy.
func (d IssueDates) Clone() IssueDates { return maps.Clone(d) }
