package dcap

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"time"

	"cupel.dev/cupel/internal/trusted/sgxquote"
)

// status is Intel's word for what a TCB level is worth.
type status string

const (
	upToDate               status = "UpToDate"
	swHardeningNeeded      status = "SWHardeningNeeded"
	configurationNeeded    status = "ConfigurationNeeded"
	configurationAndSW     status = "ConfigurationAndSWHardeningNeeded"
	outOfDate              status = "OutOfDate"
	outOfDateConfiguration status = "OutOfDateConfigurationNeeded"
	revoked                status = "Revoked"
)

const (
	components              = 16
	documentVersionTCBInfo  = 3
	documentVersionIdentity = 2
)

func (s status) known() bool {
	switch s {
	case upToDate, swHardeningNeeded, configurationNeeded, configurationAndSW, outOfDate, outOfDateConfiguration, revoked:
		return true
	}
	return false
}

// converge joins the platform's status with the quoting enclave's: an outdated
// or revoked quoting enclave is not hidden by what the platform still needs. Intel's
// Quote Verification Library converges the two in the same way.
func converge(platform, qe status) status {
	switch qe {
	case revoked:
		return revoked
	case outOfDate:
		switch platform {
		case upToDate, swHardeningNeeded:
			return outOfDate
		case configurationNeeded, configurationAndSW:
			return outOfDateConfiguration
		}
	}
	return platform
}

// matched is the TCB level that a platform or enclave was found at.
type matched struct {
	status     status
	date       time.Time
	advisories []string
	evaluation int
}

// document is what Intel's two signed JSON texts share.
type document struct {
	ID         string `json:"id"`
	Version    int    `json:"version"`
	IssueDate  date   `json:"issueDate"`
	NextUpdate date   `json:"nextUpdate"`
	Evaluation int    `json:"tcbEvaluationDataNumber"`
}

// date is a time of a signed text: in UTC, to the second, in this one form.
type date time.Time

const dateLayout = "2006-01-02T15:04:05Z"

func (d *date) UnmarshalText(b []byte) error {
	t, err := time.Parse(dateLayout, string(b))
	if err != nil || t.Format(dateLayout) != string(b) { // time.Parse takes fractions of a second
		return fmt.Errorf("date %.40q is not of the form %s", b, dateLayout)
	}
	*d = date(t)
	return nil
}

func (d date) time() time.Time { return time.Time(d) }

type tcbInfo struct {
	document
	FMSPC   hexBytes   `json:"fmspc"`
	PCEID   hexBytes   `json:"pceId"`
	TCBType *int       `json:"tcbType"`
	Levels  []tcbLevel `json:"tcbLevels"`
}

type tcbLevel struct {
	TCB struct {
		Components []struct {
			SVN *int `json:"svn"`
		} `json:"sgxtcbcomponents"`
		PCESVN *int `json:"pcesvn"`
	} `json:"tcb"`
	levelStatus
}

// levelStatus is what every kind of TCB level ends in.
type levelStatus struct {
	Date       date     `json:"tcbDate"`
	Status     status   `json:"tcbStatus"`
	Advisories []string `json:"advisoryIDs"`
}

func (l levelStatus) match(evaluation int) matched {
	return matched{
		status:     l.Status,
		date:       l.Date.time(),
		advisories: l.Advisories,
		evaluation: evaluation,
	}
}

// signedText is one of Intel's signed JSON texts, as collateral carries it.
type signedText struct {
	text      string
	signature string // r || s in hex
	chain     string // PEM: signer, root
}

// signedDocument verifies a text's signature and reads it into doc, whose
// shared part is d.
func (j *judgement) signedDocument(is documentKind, s signedText, root *x509.Certificate, doc any, d *document) error {
	signer, err := j.signerChain(is.chain, is.revoked, s.chain, root)
	if err != nil {
		return err
	}

	key, err := certKey(signer)
	if err != nil {
		return unproven(is.chain, "signer: %w", err)
	}

	sig, err := decodeHex(s.signature)
	if err != nil || len(sig) != sgxquote.SigLen {
		return malformed(is.signature, "signature is not %d lower-case hex digits", 2*sgxquote.SigLen)
	}
	if !verifyRaw(key, []byte(s.text), sig) {
		return unproven(is.signature, "the text's signature does not match").
			Fix("fetch the collateral again and hand it on byte for byte")
	}

	if err := readExact([]byte(s.text), doc); err != nil {
		return malformed(is.rule, "the signed text: %w", err).
			Fix("fetch the collateral anew; if its maker signed this text, do not use the platform")
	}
	if d.Evaluation <= 0 {
		return malformed(is.rule, "no tcbEvaluationDataNumber")
	}

	j.issued[is.issued] = d.IssueDate.time()
	return j.dates(is.expired, "the "+is.words, d.IssueDate.time(), d.NextUpdate.time())
}

// tcb finds the platform's level in the signed TCB info (Provisioning Certification
// Service API v4, "Get SGX TCB Info": the first level, from the highest, that all component
// versions and the PCESVN reach).
func (j *judgement) tcb(col *Collateral, root *x509.Certificate, ext *pckExtension) (matched, error) {
	var info tcbInfo
	text := signedText{col.TCBInfo, col.TCBInfoSignature, col.TCBInfoIssuerChain}
	if err := j.signedDocument(tcbInfoKind, text, root, &info, &info.document); err != nil {
		return matched{}, err
	}

	if info.ID != "SGX" || info.Version != documentVersionTCBInfo {
		return matched{}, malformed(ruleTCBInfo, "TCB info of kind %q version %d", info.ID, info.Version).Want("SGX version %d", documentVersionTCBInfo)
	}
	if info.TCBType == nil || *info.TCBType != 0 {
		return matched{}, malformed(ruleTCBInfo, "a TCB type that this verifier can't compare").Want("0")
	}

	if !bytes.Equal(info.FMSPC, ext.fmspc[:]) || !bytes.Equal(info.PCEID, ext.pceID[:]) {
		return matched{}, unproven(ruleTCBInfoPlatform, "TCB info for FMSPC %.12x, PCEID %.4x", []byte(info.FMSPC), []byte(info.PCEID)).
			Want("FMSPC %x, PCEID %x, as the PCK certificate says", ext.fmspc, ext.pceID)
	}

	for i := range info.Levels {
		if err := info.Levels[i].check(); err != nil {
			return matched{}, malformed(ruleTCBInfo, "TCB level %d: %w", i, err)
		}
	}

	for i := range info.Levels { // highest first; the first that is met counts
		if l := &info.Levels[i]; l.metBy(ext) {
			return l.match(info.Evaluation), nil
		}
	}

	return matched{}, unproven(ruleTCBLevel, "the platform's TCB (%v, PCESVN %d) is below every level that its maker lists", ext.components, ext.pceSVN).
		Fix("update the platform's firmware and microcode")
}

func (l *tcbLevel) check() error {
	if len(l.TCB.Components) != components {
		return fmt.Errorf("%d components, not %d", len(l.TCB.Components), components)
	}
	for _, c := range l.TCB.Components {
		if c.SVN == nil || *c.SVN < 0 || *c.SVN > 255 {
			return fmt.Errorf("a component without a version from 0 to 255")
		}
	}

	if l.TCB.PCESVN == nil || *l.TCB.PCESVN < 0 || *l.TCB.PCESVN > 65535 {
		return fmt.Errorf("no PCESVN from 0 to 65535")
	}

	return l.levelStatus.check()
}

func (l levelStatus) check() error {
	if !l.Status.known() {
		return fmt.Errorf("unknown status %.60q", l.Status)
	}
	if l.Date.time().IsZero() {
		return fmt.Errorf("no tcbDate")
	}
	return nil
}

func (l *tcbLevel) metBy(ext *pckExtension) bool {
	for i, c := range l.TCB.Components {
		if int(ext.components[i]) < *c.SVN {
			return false
		}
	}
	return int(ext.pceSVN) >= *l.TCB.PCESVN
}
