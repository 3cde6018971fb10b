// Package cas is the configuration and attestation service: it keeps sessions,
// decides which attested instance gets what its session grants, keeps volume
// tags and leases, and writes an audit log of every change.
//
// It is trusted by owners once they have attested it. It trusts its own memory,
// the Sealer's key and the maker of the TEE; it does not trust the Store, the
// network, whoever starts it, or the clock (which may stand still but not run
// back). Beside it lie journal (the only way to rows and log), secrets (values and
// certificates, and what instances get of them), quota (the limits of what is kept),
// server (HTTP), casdb (SQLite) and keyfile (the key).
//
// # State
//
// State is rows, sealed before they reach the Store. A change goes through the
// package journal, which commits it durably together with its entry in the signed
// log before the caller goes on, and which refuses a row that was put back.
//
// What is kept is counted by the ledger, from the rows of sessions and grants,
// against limits (quota): for each key, each source address, and in total. A quota
// refuses a change before its commit; nothing is ever dropped for one.
//
// # Concurrency
//
// Nothing on the release path takes a global lock but the journal's group
// commit. Each session has a read-write lock: releases hold it for reading over
// their commit, an update holds it for writing, and who is not allowed to update
// never asks for that. Each volume and each instance has a mutex of its own. They
// are taken in the order session (a namespace's before that of a session in it),
// instance, volume, grant; the journal's committer takes none of them, and over
// the ledger's nothing else is taken. Memory changes after the commit succeeded
// and before the lock is let go.
//
// A session's plan and values are in memory only while it is used. They are
// unloaded under its lock for writing, so that reading and writing, which load,
// are the only ways to a session: what they return is locked.
//
// # Reading
//
// cas.go first, then release.go, which is the road of an instance, with plan.go and
// session_secrets.go (what a session gives), volume.go and commit.go (volumes),
// instance.go (what becomes of it). sessions.go is the road of an owner, with
// sessions_memory.go (what is in memory), charge.go and ledger.go (what is counted).
// The files grant*.go are the right to run, rotate.go and volume_reset.go what owners
// change afterwards, sweep.go and history.go what time does.
package cas
