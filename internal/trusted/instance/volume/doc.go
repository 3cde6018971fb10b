// Package volume is the plaintext of an encrypted volume, between an instance's memory and
// what is sealed.
//
// It owns two things: the form of the plaintext (a deterministic tar archive, Pack and
// Unpack), and the accounting that keeps a volume within the instance's memory (Measure).
// Encryption is sealed's business, transport node's, and which generation is the right one
// is decided by the CAS.
//
// It trusts the archives that it unpacks only as far as they go: names that leave the
// volume, devices, entries below anything but a directory of the same archive are refused,
// so that an archive can't write outside the directory that it is unpacked into.
//
// Pack and Unpack expect that nobody else changes the directory meanwhile.
//
// Read pack.go first, then unpack.go, which mirrors it; size.go counts what both cost.
package volume
