package simtee

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"time"

	"cupel.dev/cupel/internal/trusted/verify/dcap"
)

// evaluation is the number of the simulated maker's newest TCB evaluation.
const evaluation = 17

// The maker's JSON texts, field by field as Intel writes them (TCB info
// version 3, enclave identity version 2).
type (
	tcbInfo struct {
		ID         string     `json:"id"`
		Version    int        `json:"version"`
		IssueDate  string     `json:"issueDate"`
		NextUpdate string     `json:"nextUpdate"`
		FMSPC      string     `json:"fmspc"`
		PCEID      string     `json:"pceId"`
		TCBType    int        `json:"tcbType"`
		Evaluation int        `json:"tcbEvaluationDataNumber"`
		Levels     []tcbLevel `json:"tcbLevels"`
	}
	tcbLevel struct {
		TCB        any      `json:"tcb"`
		Date       string   `json:"tcbDate"`
		Status     string   `json:"tcbStatus"`
		Advisories []string `json:"advisoryIDs,omitempty"`
	}
	sgxTCB struct {
		Components [16]component `json:"sgxtcbcomponents"`
		PCESVN     int           `json:"pcesvn"`
	}
	component struct {
		SVN byte `json:"svn"`
	}
	qeTCB struct {
		ISVSVN int `json:"isvsvn"`
	}
	qeIdentity struct {
		ID             string     `json:"id"`
		Version        int        `json:"version"`
		IssueDate      string     `json:"issueDate"`
		NextUpdate     string     `json:"nextUpdate"`
		Evaluation     int        `json:"tcbEvaluationDataNumber"`
		MiscSelect     string     `json:"miscselect"`
		MiscSelectMask string     `json:"miscselectMask"`
		Attributes     string     `json:"attributes"`
		AttributesMask string     `json:"attributesMask"`
		MRSigner       string     `json:"mrsigner"`
		ISVProdID      int        `json:"isvprodid"`
		Levels         []tcbLevel `json:"tcbLevels"`
	}
)

// collateral issues everything as of now.
func (k *keys) collateral(now time.Time, c Condition) ([]byte, error) {
	// Issued a minute ago: whoever verifies may have a slower clock.
	from := now.Add(-time.Minute).UTC().Truncate(time.Second)
	until := from.Add(collateralLife)

	rootCRL, err := k.rootList(from, until, c)
	if err != nil {
		return nil, err
	}
	pckCRL, err := revocationList(k.ca, k.caKey, from, until, when(c.RevokedPCK, k.pck))
	if err != nil {
		return nil, err
	}

	info, infoSig, err := k.sign(k.tcbInfo(from, until, c))
	if err != nil {
		return nil, err
	}
	identity, identitySig, err := k.sign(k.qeIdentity(from, until, c))
	if err != nil {
		return nil, err
	}

	return json.Marshal(dcap.Collateral{
		PCKCRLIssuerChain:     chain(k.ca, k.root),
		RootCACRL:             rootCRL,
		PCKCRL:                pckCRL,
		TCBInfoIssuerChain:    chain(k.signer, k.root),
		TCBInfo:               info,
		TCBInfoSignature:      infoSig,
		QEIdentityIssuerChain: chain(k.signer, k.root),
		QEIdentity:            identity,
		QEIdentitySignature:   identitySig,
	})
}

func (k *keys) rootList(from, until time.Time, c Condition) (string, error) {
	return revocationList(k.root, k.rootKey, from, until, append(when(c.RevokedCA, k.ca), when(c.RevokedSigner, k.signer)...))
}

func when(revoked bool, c *x509.Certificate) []*x509.Certificate {
	if revoked {
		return []*x509.Certificate{c}
	}
	return nil
}

// sign returns a document's text and its signature in hex.
func (k *keys) sign(doc any) (text, signature string, err error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return "", "", err
	}
	sig, err := signRaw(k.signerKey, b)
	return string(b), hex.EncodeToString(sig), err
}

func (k *keys) tcbInfo(from, until time.Time, c Condition) tcbInfo {
	var at sgxTCB
	for i, svn := range cpuSVN {
		at.Components[i].SVN = svn
	}

	at.PCESVN = pceSVN
	if c.BelowTCB {
		at.PCESVN++
	}

	return tcbInfo{
		ID:         "SGX",
		Version:    3,
		IssueDate:  text(from),
		NextUpdate: text(until),
		FMSPC:      upper(fmspc),
		PCEID:      upper(pceID),
		Evaluation: number(c),
		Levels: []tcbLevel{{
			TCB:        at,
			Date:       tcbDate,
			Status:     cmp.Or(c.TCBStatus, "UpToDate"),
			Advisories: c.Advisories,
		}},
	}
}

func (k *keys) qeIdentity(from, until time.Time, c Condition) qeIdentity {
	return qeIdentity{
		ID:             "QE",
		Version:        2,
		IssueDate:      text(from),
		NextUpdate:     text(until),
		Evaluation:     number(c),
		MiscSelect:     "00000000",
		MiscSelectMask: "FFFFFFFF",
		Attributes:     "11000000000000000000000000000000",
		AttributesMask: "FBFFFFFFFFFFFFFF0000000000000000",
		MRSigner:       upper(qeSigner[:]),
		ISVProdID:      qeProdID,
		Levels:         []tcbLevel{{TCB: qeTCB{qeSVN}, Date: tcbDate, Status: cmp.Or(c.QEStatus, "UpToDate")}},
	}
}

// tcbDate is when the simulated maker last found something.
const tcbDate = "2024-03-13T00:00:00Z"

func number(c Condition) int {
	if c.Evaluation != 0 {
		return c.Evaluation
	}
	return evaluation
}

func text(t time.Time) string { return t.Format("2006-01-02T15:04:05Z") }
func upper(b []byte) string   { return strings.ToUpper(hex.EncodeToString(b)) }

func chain(certs ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.String()
}

func revocationList(issuer *x509.Certificate, key *ecdsa.PrivateKey, from, until time.Time, revoked []*x509.Certificate) (string, error) {
	list := &x509.RevocationList{
		Number:             big.NewInt(from.Unix()),
		ThisUpdate:         from,
		NextUpdate:         until,
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}

	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: from})
	}

	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, key)
	return hex.EncodeToString(der), err
}
