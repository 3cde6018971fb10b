package dcap

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/sgxquote"
)

// maxQuoteLen bounds what is read of a quote; real ones have some 4,600 bytes.
const maxQuoteLen = 64 << 10

type publicKey = ecdsa.PublicKey

// quote is a parsed, not yet verified quote. Its slices alias the input.
type quote struct {
	signed         []byte // header || body: what the attestation key signed
	body           reportBody
	signature      []byte
	attestationKey *publicKey
	rawKey         []byte
	qeReportRaw    []byte
	qeReport       reportBody
	qeSignature    []byte
	authData       []byte
	certData       []byte // PEM
	signatureData  []byte // everything after the length: key to all but the quote's own body
}

// reportBody is what is read of a report body (Intel SDM volume 3D, section 38.15
// "REPORT"; its layout is in package sgxquote).
type reportBody struct {
	miscSelect [4]byte
	attributes [16]byte
	mrenclave  ident.Measurement
	mrsigner   ident.Measurement
	configID   evidence.Data64
	isvProdID  uint16
	isvSVN     uint16
	reportData evidence.Data64
}

func (b reportBody) debug() bool { return b.attributes[0]&sgxquote.AttributeDebug != 0 }

// sgx reads the fields that say how the enclave runs. They are little endian,
// and so bit 0 is in the first byte.
func (b reportBody) sgx() *evidence.SGXFields {
	return &evidence.SGXFields{
		Attributes: evidence.Bits64(binary.LittleEndian.Uint64(b.attributes[:8])),
		XFRM:       evidence.Bits64(binary.LittleEndian.Uint64(b.attributes[8:])),
		MiscSelect: evidence.Bits32(binary.LittleEndian.Uint32(b.miscSelect[:])),
	}
}

func parseBody(b []byte) (r reportBody) {
	copy(r.miscSelect[:], b[sgxquote.AtMiscSelect:])
	copy(r.attributes[:], b[sgxquote.AtAttributes:])
	copy(r.mrenclave[:], b[sgxquote.AtMREnclave:])
	copy(r.mrsigner[:], b[sgxquote.AtMRSigner:])
	copy(r.configID[:], b[sgxquote.AtConfigID:])
	r.isvProdID = binary.LittleEndian.Uint16(b[sgxquote.AtISVProdID:])
	r.isvSVN = binary.LittleEndian.Uint16(b[sgxquote.AtISVSVN:])
	copy(r.reportData[:], b[sgxquote.AtReportData:])
	return r
}

// cursor reads fields off the front of b.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) take(n int, what string) []byte {
	if c.err == nil && (n < 0 || n > len(c.b)) {
		c.err = malformed(ruleQuoteFormat, "quote ends within its %s", what).Want("%d more bytes", n-len(c.b))
	}
	if c.err != nil {
		return nil
	}

	out := c.b[:n:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) u16(what string) int {
	if b := c.take(2, what); b != nil {
		return int(binary.LittleEndian.Uint16(b))
	}
	return 0
}

func (c *cursor) u32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// parseQuote reads b, which must be one quote and nothing after it (ECDSA Quote Library
// API, appendix A.4).
func parseQuote(b []byte) (*quote, error) {
	if len(b) > maxQuoteLen {
		return nil, malformed(ruleQuoteFormat, "quote of %d bytes", len(b)).Want("at most %d", maxQuoteLen)
	}
	if len(b) < sgxquote.SignedLen {
		return nil, malformed(ruleQuoteFormat, "quote of %d bytes", len(b)).Want("at least %d", sgxquote.SignedLen)
	}

	if err := checkHeader(b); err != nil {
		return nil, err
	}

	q := &quote{signed: b[:sgxquote.SignedLen], body: parseBody(b[sgxquote.HeaderLen:])}
	c := &cursor{b: b[sgxquote.SignedLen:]}

	n := c.u32("signature length")
	if c.err == nil && uint64(n) != uint64(len(c.b)) {
		return nil, malformed(ruleQuoteFormat, "signature data of %d bytes", len(c.b)).Want("%d, as the quote says", n)
	}

	q.signatureData = c.b
	q.signature = c.take(sgxquote.SigLen, "signature")
	q.rawKey = c.take(sgxquote.KeyLen, "attestation key")
	q.qeReportRaw = c.take(sgxquote.BodyLen, "QE report")
	q.qeSignature = c.take(sgxquote.SigLen, "QE report signature")
	q.authData = c.take(c.u16("QE authentication data length"), "QE authentication data")

	certType := c.u16("certification data type")
	certLen := c.u32("certification data length")
	if certLen > maxQuoteLen {
		return nil, malformed(ruleQuoteFormat, "certification data of %d bytes", certLen).Want("at most %d", maxQuoteLen)
	}

	q.certData = c.take(int(certLen), "certification data")
	if c.err != nil {
		return nil, c.err
	}
	if len(c.b) != 0 {
		return nil, malformed(ruleQuoteFormat, "%d bytes after the certification data", len(c.b)).Want("none")
	}

	if err := checkCertType(certType); err != nil {
		return nil, err
	}

	var err error
	if q.attestationKey, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.rawKey...)); err != nil {
		return nil, malformed(ruleQuoteFormat, "attestation key: %w", err)
	}
	q.qeReport = parseBody(q.qeReportRaw)
	return q, nil
}

// checkHeader refuses quotes of another kind (appendix A.4, quote header).
func checkHeader(b []byte) error {
	le := binary.LittleEndian
	if v := le.Uint16(b[sgxquote.AtVersion:]); v != sgxquote.Version {
		return malformed(ruleQuoteVersion, "quote version %d", v).Want("%d (SGX)", sgxquote.Version)
	}
	if t := le.Uint16(b[sgxquote.AtKeyType:]); t != sgxquote.KeyECDSAP256 {
		return malformed(ruleQuoteFormat, "attestation key type %d", t).Want("%d (ECDSA P-256)", sgxquote.KeyECDSAP256)
	}
	if t := le.Uint32(b[sgxquote.AtTEEType:]); t != sgxquote.TEESGX {
		return malformed(ruleQuoteFormat, "TEE type %#x", t).Want("%#x (SGX)", sgxquote.TEESGX)
	}

	if vendor := [16]byte(b[sgxquote.AtQEVendor:]); vendor != sgxquote.QEVendor {
		return unproven(ruleQEVendor, "quoting enclave of vendor %x", vendor).Want("%x", sgxquote.QEVendor)
	}
	return nil
}

// checkCertType refuses quotes without the chain of the platform's certificate (appendix
// A.4, QE certification data).
func checkCertType(t int) *problem.Error {
	switch t {
	case sgxquote.CertPCKChain:
		return nil
	case sgxquote.CertEncryptedPPID:
		return malformed(ruleCertificationData, "the quote carries an encrypted PPID (certification data type 3) instead of its PCK chain").
			Want("type 5").Fix("configure the platform's quote provider library so that quotes carry the PCK certificate chain")
	}
	return malformed(ruleCertificationData, "certification data type %d", t).Want("5 (PCK certificate chain)")
}

// checkQEReport ties the attestation key to the platform: the PCK signed the
// quoting enclave's report, and that report names the key: its report data are SHA-256 over
// attestation key and authentication data, then zeros (appendix A.4, QE report).
func (q *quote) checkQEReport(pck *x509.Certificate) error {
	key, err := certKey(pck)
	if err != nil {
		return unproven(rulePCKChain, "PCK certificate: %w", err)
	}
	if !verifyRaw(key, q.qeReportRaw, q.qeSignature) {
		return unproven(ruleQEReportSignature, "the quoting enclave's report is not signed by the platform's certified key (PCK)")
	}

	h := sha256.New()
	h.Write(q.rawKey)
	h.Write(q.authData)
	var want evidence.Data64
	h.Sum(want[:0])

	if q.qeReport.reportData != want {
		return unproven(ruleQEReportData, "the quoting enclave vouched for another attestation key").
			Want("report data %s", want)
	}
	return nil
}

// verifyRaw checks an r||s signature over SHA-256(msg).
func verifyRaw(key *publicKey, msg, sig []byte) bool {
	if len(sig) != sgxquote.SigLen {
		return false
	}

	digest := sha256.Sum256(msg)
	r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
	return ecdsa.Verify(key, digest[:], r, s)
}

// certKey returns a certificate's P-256 key.
func certKey(c *x509.Certificate) (*publicKey, error) {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("certificate %q has a key that is not ECDSA P-256", c.Subject)
	}
	return key, nil
}
