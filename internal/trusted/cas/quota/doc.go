// Package quota is what the limits of a CAS are, and how people write them: so
// many sessions, versions, bytes and grants for each client's key, for each source
// address, and in total. It counts nothing; what counts is the package cas.
//
// It is a leaf: the CAS and the operator's daemon, which hands the text of a flag
// on to the CAS, both read limits with it. Limits are plain values: not safe for
// concurrent Set, safe for concurrent reading.
//
// Read quota.go (what is limited), then parse.go (how it is written).
package quota
