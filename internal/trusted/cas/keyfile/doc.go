// Package keyfile is the journal.Sealer whose key lies in a file: AES-256-GCM under
// a random key that is made once.
//
// Whoever reads the file reads the CAS's state; it is the stand-in for a key
// that a platform seals. A missing file is never replaced by a new key where
// state exists: that state would be lost without a word.
//
// A Sealer is immutable and safe for concurrent use.
//
// Read keyfile.go; aead.go is the cipher.
package keyfile
