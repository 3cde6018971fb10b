// Package audit is the CAS's log of everything that it changed: entries in a
// hash chain, and heads that the CAS's identity key signs.
//
// It is pure (no I/O, no clock), so that owners verify with the code that the
// CAS writes with. A log that was edited, cut or forked does not verify against
// a head that anyone kept; what no kept head covers can't be detected, which is
// why every reply of a CAS carries one.
//
// Entries hold names, versions, hashes and keys, never a secret and never a hash
// of anything that could be guessed: the log may be read by anyone.
//
// It trusts the identity key that the caller gives, and nothing else: entries and heads are
// input. Functions are safe for concurrent use; a Chain and a Verifier belong to one goroutine.
// Read audit.go from the top: Chain, then heads, then Verifier.
package audit
