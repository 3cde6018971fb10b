// Package fieldhash hashes several fields so that no two lists of fields hash alike: each
// field goes in with its length before it.
//
// What it computes names sessions, launches and log entries, so it never changes: SHA-256
// over each field's length in bytes, as 8 bytes with the highest first, and then the field;
// a number goes in as those 8 bytes alone. It trusts nothing. A Hash is for one goroutine.
package fieldhash

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Hash takes one field after the other.
type Hash struct {
	sum    hash.Hash
	length [8]byte
}

// New returns a Hash without fields.
func New() *Hash { return &Hash{sum: sha256.New()} }

// Of hashes a list of fields.
func Of(fields ...[]byte) (out [sha256.Size]byte) {
	sum := sha256.New() // not a Hash: so neither it nor the fields reach the heap
	for _, f := range fields {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(f)))
		sum.Write(length[:])
		sum.Write(f)
	}

	sum.Sum(out[:0])
	return out
}

// Bytes adds a field.
func (h *Hash) Bytes(field []byte) {
	h.Number(uint64(len(field)))
	h.sum.Write(field)
}

// Text adds a field that is a text.
func (h *Hash) Text(field string) { h.Bytes([]byte(field)) }

// Number adds a number, which has no length before it.
func (h *Hash) Number(n uint64) {
	binary.BigEndian.PutUint64(h.length[:], n)
	h.sum.Write(h.length[:])
}

// Sum is the hash of the fields so far.
func (h *Hash) Sum() (out [sha256.Size]byte) {
	h.sum.Sum(out[:0])
	return out
}
