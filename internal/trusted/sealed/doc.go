// Package sealed holds the sealed formats: here the snapshot, one generation of
// a volume as ciphertext that lies on storage nobody trusts.
//
// A snapshot is a header and chunks:
//
//	header  magic "CUPELSNP" ‖ version u16 ‖ reserved u16 (0) ‖ chunk size u32 ‖
//	        volume id [32] ‖ generation u64 ‖ key id [16] ‖ salt [32]
//	chunk   frame u32 (bit 31: last chunk; bits 0-30: bytes of plaintext) ‖
//	        ciphertext ‖ AES-256-GCM tag [16]
//
// All integers are big endian. Every chunk but the last is of the full size;
// the last is empty only if it is the first. So one plaintext under one header
// has one encoding.
//
// The chunk key is HKDF-SHA-256 over the volume's key with the header's random
// salt, bound to volume id and generation: no two snapshots share a key, and a
// chunk's nonce is its index. Associated data are the SHA-256 of the header,
// the index and the frame. A snapshot's Tag is SHA-256 over the header and, for
// each chunk, frame and GCM tag; the CAS keeps it, so that out of several
// validly encrypted states exactly one is accepted.
//
// Trust: storage may answer anything. Plaintext leaves a Reader only after its
// chunk was verified, and io.EOF only after the last chunk and the Tag were: a
// caller that acts on what it read before io.EOF must be able to throw that
// away. Which generation and tag are right is the CAS's word, passed in.
//
// Memory is bounded by two chunks, whatever the input. Writers and Readers are
// for one goroutine each.
package sealed
