package evidence

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"cupel.dev/cupel/api/ident"
)

// Type is the kind of evidence.
type Type string

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
	Type          Type              `json:"type"`
	Measurement   ident.Measurement `json:"measurement"` // MRENCLAVE
	Signer        ident.Measurement `json:"signer"`      // MRSIGNER
	ProductID     uint16            `json:"product_id"`
	SVN           uint16            `json:"svn"`
	LaunchBinding Data64            `json:"config_id"`
	ReportData    Data64            `json:"report_data"`
	Debug         bool              `json:"debug"`
	SGX           *SGXFields        `json:"sgx,omitempty"` // nil in claims that were stored before these fields were kept
	Simulated     bool              `json:"simulated"`     // the chain ends in a root that was given as a simulation root
	Root          ident.Digest      `json:"root"`          // SHA-256 of that root certificate in DER
	FMSPC         string            `json:"fmspc"`         // 12 hex digits
	TCBStatus     string            `json:"tcb_status"`
	Advisories    []string          `json:"advisories,omitempty"`
	TCBDate       time.Time         `json:"tcb_date"`
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

// SGXFields are the fields of an SGX report that say how the enclave runs (Intel
// SDM volume 3D, SECS.ATTRIBUTES and SECS.MISCSELECT), as numbers: bit 0 is the lowest.
type SGXFields struct {
	Attributes Bits64 `json:"attributes"`  // ATTRIBUTES without XFRM: INIT 1, DEBUG 2, MODE64BIT 4, PROVISIONKEY 0x10, EINITTOKEN_KEY 0x20, KSS 0x80
	XFRM       Bits64 `json:"xfrm"`        // processor state that is on: the bits of XCR0
	MiscSelect Bits32 `json:"misc_select"` // what the processor notes of an exception: EXINFO 1
}

// Bits64 is a field of 64 bits. Text form: 0x and 16 hex digits, the highest first.
type Bits64 uint64

// Bits32 is a field of 32 bits. Text form: 0x and 8 hex digits, the highest first.
type Bits32 uint32

func (b Bits64) String() string               { return fmt.Sprintf("0x%016x", uint64(b)) }
func (b Bits64) MarshalText() ([]byte, error) { return []byte(b.String()), nil }
func (b *Bits64) UnmarshalText(text []byte) error {
	n, err := parseBits(text, 64)
	*b = Bits64(n)

	return err
}

func (b Bits32) String() string               { return fmt.Sprintf("0x%08x", uint32(b)) }
func (b Bits32) MarshalText() ([]byte, error) { return []byte(b.String()), nil }
func (b *Bits32) UnmarshalText(text []byte) error {
	n, err := parseBits(text, 32)
	*b = Bits32(n)

	return err
}

func parseBits(text []byte, size int) (uint64, error) {
	digits, ok := strings.CutPrefix(string(text), "0x")
	if !ok || len(digits) != size/4 {
		return 0, fmt.Errorf("want 0x and %d hex digits", size/4)
	}

	return strconv.ParseUint(digits, 16, size)
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
