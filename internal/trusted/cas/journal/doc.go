// Package journal is the only way to a CAS's state: sealed rows in a Store, and the
// signed audit log that says what every row must be.
//
// A change is one entry of the log with the rows that it changes. One committer
// gathers whatever waits, gives every row its next version, appends one entry per
// change, signs the new head and commits all of it in one durable transaction;
// only then do callers go on. The log is replayed at start, so that memory holds
// the version and hash that every row must have; a row that was put back is
// refused when it is read.
//
// The journal trusts its own memory and the Sealer, and not the Store: neither
// that it keeps what it was given nor that it says how a commit ended. What it
// can't notice is a store that was put back as a whole, log included: that is
// noticed by those who remember a head.
//
// # Concurrency
//
// A Journal is safe for concurrent use after Start. Commit may be called under any
// lock of the caller's: the committer takes none but the journal's own. commitMu is
// held over a transaction, mu for the moment in which marks are read or changed, and
// commitMu is taken first.
//
// Read store.go (what a Store and a Sealer are), journal.go, replay.go, commit.go
// with build.go, then read.go.
package journal
