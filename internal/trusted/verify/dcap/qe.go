package dcap

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
)

// enclaveIdentity is Intel's signed description of its quoting enclave. Its hex
// texts have the report's bytes in the report's order, MISCSELECT and its mask
// included: MISCSELECT is a little-endian number in the report, so that bit 0
// is written "01000000", as the attributes' bit 0 is written "01…".
type enclaveIdentity struct {
	document
	MiscSelect     hexBytes `json:"miscselect"`
	MiscSelectMask hexBytes `json:"miscselectMask"`
	Attributes     hexBytes `json:"attributes"`
	AttributesMask hexBytes `json:"attributesMask"`
	MRSigner       hexBytes `json:"mrsigner"`
	ISVProdID      *int     `json:"isvprodid"`
	Levels         []struct {
		TCB struct {
			ISVSVN *int `json:"isvsvn"`
		} `json:"tcb"`
		levelStatus
	} `json:"tcbLevels"`
}

// hexBytes reads either case: within a signed text it has no other reading.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// qeIdentity holds the quoting enclave's report against its signed identity
// (Provisioning Certification Service API v4, "Get SGX QE Identity").
func (j *judgement) qeIdentity(col *Collateral, root *x509.Certificate, report reportBody) (matched, error) {
	var id enclaveIdentity
	text := signedText{col.QEIdentity, col.QEIdentitySignature, col.QEIdentityIssuerChain}
	if err := j.signedDocument(qeIdentityKind, text, root, &id, &id.document); err != nil {
		return matched{}, err
	}
	if err := id.check(); err != nil {
		return matched{}, malformed(ruleQEIdentity, "QE identity: %w", err)
	}

	if got, want := hex.EncodeToString(report.mrsigner[:]), hex.EncodeToString(id.MRSigner); got != want {
		return matched{}, unproven(ruleQEIdentity, "quoting enclave signed by %s", got).Want("%s", want)
	}
	if int(report.isvProdID) != *id.ISVProdID {
		return matched{}, unproven(ruleQEIdentity, "quoting enclave with product id %d", report.isvProdID).Want("%d", *id.ISVProdID)
	}
	if !maskedEqual(report.attributes[:], id.AttributesMask, id.Attributes) {
		return matched{}, unproven(ruleQEIdentity, "quoting enclave with attributes %x", report.attributes).Want("%x under mask %x", []byte(id.Attributes), []byte(id.AttributesMask))
	}
	if !maskedEqual(report.miscSelect[:], id.MiscSelectMask, id.MiscSelect) {
		return matched{}, unproven(ruleQEIdentity, "quoting enclave with MISCSELECT %x", report.miscSelect).Want("%x under mask %x", []byte(id.MiscSelect), []byte(id.MiscSelectMask))
	}

	for i := range id.Levels { // highest first
		if l := &id.Levels[i]; int(report.isvSVN) >= *l.TCB.ISVSVN {
			return l.match(id.Evaluation), nil
		}
	}
	return matched{}, unproven(ruleQELevel, "the quoting enclave's version %d is below every level that its maker lists", report.isvSVN).
		Fix("update the quoting enclave (libsgx-ae-qe3)")
}

func (id *enclaveIdentity) check() error {
	if id.ID != "QE" || id.Version != documentVersionIdentity {
		return fmt.Errorf("kind %q version %d, not QE version %d", id.ID, id.Version, documentVersionIdentity)
	}
	if len(id.MiscSelect) != 4 || len(id.MiscSelectMask) != 4 || len(id.Attributes) != 16 || len(id.AttributesMask) != 16 || len(id.MRSigner) != 32 {
		return fmt.Errorf("a field of the wrong length")
	}

	if err := within(id.Attributes, id.AttributesMask); err != nil {
		return fmt.Errorf("attributes: %w", err)
	}
	if err := within(id.MiscSelect, id.MiscSelectMask); err != nil {
		return fmt.Errorf("miscselect: %w", err)
	}
	if id.ISVProdID == nil {
		return fmt.Errorf("no isvprodid")
	}

	for i := range id.Levels {
		l := &id.Levels[i]
		if l.TCB.ISVSVN == nil || *l.TCB.ISVSVN < 0 {
			return fmt.Errorf("level %d: no isvsvn", i)
		}
		if err := l.check(); err != nil {
			return fmt.Errorf("level %d: %w", i, err)
		}

		if l.Status != upToDate && l.Status != outOfDate && l.Status != revoked {
			return fmt.Errorf("level %d: status %s, which a quoting enclave can't have", i, l.Status)
		}
	}
	return nil
}

// within refuses an expected value with bits outside its mask: nothing could
// ever be held against them, so whoever wrote them meant another mask.
func within(want, mask []byte) error {
	for i := range want {
		if want[i]&^mask[i] != 0 {
			return fmt.Errorf("%x has bits outside its mask %x", want, mask)
		}
	}
	return nil
}

// maskedEqual reports whether the bits of mask in got are want, all of it.
func maskedEqual(got, mask, want []byte) bool {
	for i := range got {
		if got[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}
