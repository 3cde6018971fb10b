package simtee

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/pem"

	"cupel.dev/cupel/api/evidence"
	"cupel.dev/cupel/internal/trusted/sgxquote"
)

// The quoting enclave that the platform says it has.
const (
	qeProdID = 1
	qeSVN    = 8
	pceSVN   = 13
)

var (
	qeSigner   = sha256.Sum256([]byte("cupel simulated quoting enclave signer"))
	qeEnclave  = sha256.Sum256([]byte("cupel simulated quoting enclave"))
	qeAuthData = []byte("SIMULATED by cupel, not hardware") // 32 bytes, as Intel's QE has
)

// cpuSVN are the platform's component versions.
var cpuSVN = [16]byte{21, 21, 2, 4, 1, 128, 14}

// quote makes header, body and their signature, and appends the tail (ECDSA Quote
// Library API, appendix A.4; package sgxquote has the offsets).
func quote(key *ecdsa.PrivateKey, l Launch, reportData evidence.Data64, tail []byte) ([]byte, error) {
	b := make([]byte, 0, sgxquote.SignedLen+4+sgxquote.SigLen+len(tail))
	b = append(b, header()...)

	attributes := byte(sgxquote.AttributeInit | sgxquote.AttributeMode64)
	if l.Debug {
		attributes |= sgxquote.AttributeDebug
	}
	b = append(b, report(attributes, l, reportData)...)

	sig, err := signRaw(key, b)
	if err != nil {
		return nil, err
	}

	b = binary.LittleEndian.AppendUint32(b, uint32(len(sig)+len(tail)))
	b = append(b, sig...)
	return append(b, tail...), nil
}

// header makes a quote's header.
func header() []byte {
	h := make([]byte, sgxquote.HeaderLen)
	binary.LittleEndian.PutUint16(h[sgxquote.AtVersion:], sgxquote.Version)
	binary.LittleEndian.PutUint16(h[sgxquote.AtKeyType:], sgxquote.KeyECDSAP256)
	binary.LittleEndian.PutUint16(h[sgxquote.AtQESVN:], qeSVN)
	binary.LittleEndian.PutUint16(h[sgxquote.AtPCESVN:], pceSVN)

	copy(h[sgxquote.AtQEVendor:], sgxquote.QEVendor[:])
	copy(h[sgxquote.AtUserData:], "cupel SIMULATED")
	return h
}

// report makes a report body, as EREPORT would (Intel SDM volume 3D, section 38.15).
func report(attributes byte, l Launch, reportData evidence.Data64) []byte {
	r := make([]byte, sgxquote.BodyLen)
	copy(r[sgxquote.AtCPUSVN:], cpuSVN[:])

	r[sgxquote.AtAttributes] = attributes
	r[sgxquote.AtXFRM] = 0x03 // x87 and SSE

	copy(r[sgxquote.AtMREnclave:], l.Measurement[:])
	copy(r[sgxquote.AtMRSigner:], l.Signer[:])
	copy(r[sgxquote.AtConfigID:], l.ConfigID[:])
	binary.LittleEndian.PutUint16(r[sgxquote.AtISVProdID:], l.ProductID)
	binary.LittleEndian.PutUint16(r[sgxquote.AtISVSVN:], l.SVN)

	copy(r[sgxquote.AtReportData:], reportData[:])
	return r
}

// quoteTail makes what every quote of the platform ends in: attestation key,
// the quoting enclave's report over it, signed by the PCK, and the PCK chain.
func (k *keys) quoteTail() ([]byte, error) {
	point, err := k.attestation.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	raw := point[1:] // x || y

	var bound evidence.Data64
	h := sha256.New()
	h.Write(raw)
	h.Write(qeAuthData)
	h.Sum(bound[:0])

	qe := report(sgxquote.AttributeInit|sgxquote.AttributeMode64|sgxquote.AttributeProvisionKey, Launch{
		Measurement: qeEnclave,
		Signer:      qeSigner,
		ProductID:   qeProdID,
		SVN:         qeSVN,
	}, bound)
	sig, err := signRaw(k.pckKey, qe)
	if err != nil {
		return nil, err
	}

	var chain []byte
	for _, c := range [][]byte{k.pck.Raw, k.ca.Raw, k.root.Raw} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	chain = append(chain, 0) // as Intel's quoting enclave ends it

	b := append([]byte(nil), raw...)
	b = append(b, qe...)
	b = append(b, sig...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(qeAuthData)))
	b = append(b, qeAuthData...)
	b = binary.LittleEndian.AppendUint16(b, sgxquote.CertPCKChain)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(chain)))
	return append(b, chain...), nil
}
