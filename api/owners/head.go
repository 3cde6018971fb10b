package owners

import (
	"crypto/sha256"
	"encoding/binary"

	"cupel.dev/cupel/api/ident"
)

// SignedHead is the end of the CAS's audit log: entry number, hash over the
// chain, the CAS's time (Unix nanoseconds) and the identity key's ECDSA
// signature (ASN.1) over HeadMessage. Every CAS reply carries one, in the body
// or in the header Cupel-Audit-Head (base64 of its JSON).
type SignedHead struct {
	Seq       uint64       `json:"seq"`
	Hash      ident.Digest `json:"hash"`
	Time      int64        `json:"time"`
	Signature []byte       `json:"signature"`
}

// HeadHeader carries a SignedHead on replies whose body has no place for it.
const HeadHeader = "Cupel-Audit-Head"

// HeadMessage returns the SHA-256 that a SignedHead's signature is over.
func HeadMessage(h SignedHead) [32]byte {
	b := []byte("cupel/audit-head/v1")
	b = binary.BigEndian.AppendUint64(b, h.Seq)
	b = append(b, h.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Time))
	return sha256.Sum256(b)
}
