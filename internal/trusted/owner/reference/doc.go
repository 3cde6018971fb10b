// Package reference keeps the reference values (RFC 9334) that an owner vouches for: which
// measurements belong to which runtime, and why the owner can say so.
//
// It trusts the file system of the owner's machine, and nobody else: a value comes in only
// when the owner rebuilt the runtime, or named its measurement. The file is read and written
// under a lock, by any number of processes. Read values.go, then kept.go.
package reference
