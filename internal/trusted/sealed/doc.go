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
// salt, bound to version, volume id and generation: no two snapshots share a
// key, and a chunk's nonce is its index. Associated data are the SHA-256 of the
// header, the index and the frame.
//
// A snapshot's Tag is SHA-256 over "cupel/snapshot/tag/v2" and every byte of the
// snapshot. The CAS keeps it, so that exactly one sequence of bytes is accepted,
// whoever has the volume's key.
//
// Version 1 is read, never written: a volume is of it until its next commit. Its
// Tag is SHA-256 over the header and, for each chunk, frame and GCM tag only. GCM
// doesn't commit to a plaintext: who has the key makes others under the same GCM
// tags, and so under the same Tag. The two kinds of Tag are hashes that begin
// differently, so no Tag is good for a snapshot of the other version.
//
// Trust: storage may answer anything. Plaintext leaves a Reader only after its
// chunk was verified, and io.EOF only after the last chunk and the Tag were: a
// caller that acts on what it read before io.EOF must be able to throw that
// away. Which generation and tag are right is the CAS's word, passed in.
//
// Memory is bounded by three chunks, whatever the input. Writers and Readers are
// for one goroutine each.
//
// Read writer.go first, then reader.go, which mirrors it; header.go is the header and
// the keys that are derived with it, tag.go the Tag, aead.go the cipher. stored.go finds a
// Tag without a key, for those who store snapshots.
package sealed
