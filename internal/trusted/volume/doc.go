// Package volume moves an encrypted volume between an instance's memory and
// storage that nobody trusts.
//
// It owns three things: the form of a volume's plaintext (a deterministic tar
// archive, Pack and Unpack), the accounting that keeps a volume within the
// instance's memory (Measure, Budget), and the wire between the launcher and
// its node (Node, Status). Encryption is sealed's business, and which
// generation is the right one is decided by the CAS.
//
// It trusts the archives that it unpacks only as far as they go: names that
// leave the volume, devices, entries below anything but a directory of the
// same archive are refused, so that an archive can't write outside the
// directory that it is unpacked into. It doesn't trust the node at all.
//
// Node is safe for concurrent use; Pack and Unpack expect that nobody else
// changes the directory meanwhile.
package volume
