package simtee

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/pem"

	"cupel.dev/cupel/api/evidence"
)

// Layout of a version 3 quote: see package dcap, which is written apart from
// this one on purpose, so that one error can't hide in both.
const (
	headerLen = 48
	bodyLen   = 384
)

// Attribute bits of an SGX report.
const (
	attrInit         = 0x01
	attrDebug        = 0x02
	attrMode64       = 0x04
	attrProvisionKey = 0x10
)

// The quoting enclave that the platform says it has.
const (
	qeProdID = 1
	qeSVN    = 8
	pceSVN   = 13
)

var (
	qeVendor   = []byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}
	qeSigner   = sha256.Sum256([]byte("cupel simulated quoting enclave signer"))
	qeEnclave  = sha256.Sum256([]byte("cupel simulated quoting enclave"))
	qeAuthData = []byte("SIMULATED by cupel, not hardware") // 32 bytes, as Intel's QE has
)

// cpuSVN are the platform's component versions.
var cpuSVN = [16]byte{21, 21, 2, 4, 1, 128, 14}

// quote makes header, body and their signature, and appends the tail.
func quote(key *ecdsa.PrivateKey, l Launch, reportData evidence.Data64, tail []byte) ([]byte, error) {
	b := make([]byte, 0, headerLen+bodyLen+4+64+len(tail))
	b = append(b, header()...)
	attributes := byte(attrInit | attrMode64)
	if l.Debug {
		attributes |= attrDebug
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

func header() []byte {
	h := make([]byte, headerLen)
	binary.LittleEndian.PutUint16(h[0:], 3) // version
	binary.LittleEndian.PutUint16(h[2:], 2) // ECDSA P-256
	binary.LittleEndian.PutUint16(h[8:], qeSVN)
	binary.LittleEndian.PutUint16(h[10:], pceSVN)
	copy(h[12:], qeVendor)
	copy(h[28:], "cupel SIMULATED")
	return h
}

func report(attributes byte, l Launch, reportData evidence.Data64) []byte {
	r := make([]byte, bodyLen)
	copy(r[0:], cpuSVN[:])
	r[48] = attributes
	r[56] = 0x03 // XFRM: x87 and SSE
	copy(r[64:], l.Measurement[:])
	copy(r[128:], l.Signer[:])
	copy(r[192:], l.ConfigID[:])
	binary.LittleEndian.PutUint16(r[256:], l.ProductID)
	binary.LittleEndian.PutUint16(r[258:], l.SVN)
	copy(r[320:], reportData[:])
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
	qe := report(attrInit|attrMode64|attrProvisionKey, Launch{Measurement: qeEnclave, Signer: qeSigner, ProductID: qeProdID, SVN: qeSVN}, bound)
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
	b = binary.LittleEndian.AppendUint16(b, 5) // PCK certificate chain
	b = binary.LittleEndian.AppendUint32(b, uint32(len(chain)))
	return append(b, chain...), nil
}
