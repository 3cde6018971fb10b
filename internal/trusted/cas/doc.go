// Package cas is the configuration and attestation service: it keeps sessions,
// decides which attested instance gets what its session grants, keeps volume
// tags and leases, and writes an audit log of every change.
//
// It is trusted by owners once they have attested it. It trusts its own memory,
// the Sealer's key and the maker of the TEE; it does not trust the Store, the
// network, whoever starts it, or the clock (which may stand still but not run
// back). HTTP lives in the folder server, SQLite in casdb, the key in keyfile.
//
// # State
//
// State is rows, sealed before they reach the Store. A change goes through the
// journal: one committer gathers whatever waits, gives every row its next
// version, appends one log entry per change, signs the new head and commits all
// of it in one durable transaction; only then do callers go on. The log is
// replayed at start, so that memory holds the version and hash that every row
// must have; a row that was put back is refused when it is read.
//
// # Concurrency
//
// Nothing on the release path takes a global lock but the journal's group
// commit. Each session has a read-write lock: releases hold it for reading over
// their commit, an update holds it for writing. Each volume and each instance
// has a mutex of its own. They are taken in the order session, instance, volume;
// the journal's committer takes none of them. Memory changes after the commit
// succeeded and before the lock is let go.
package cas
