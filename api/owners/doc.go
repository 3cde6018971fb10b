// Package owners is what owners say to a CAS, and hear from it, in one definition for both
// ends: sessions, instances, grants, rotations, the audit log. Grants and their codes also
// travel between owners, operators and instances. Paths and bodies that SCONE clients know
// keep their form; what is Cupel's own carries a version.
//
// Every reply carries the header HeaderVersion, a request id in HeaderRequestID and the signed
// audit head in HeadHeader (HeadFrom reads it); every refusal is a problem.Error whose Msg is
// SCONE's message chain.
//
// It trusts nobody: what is parsed here is no more than well formed, and a head's signature is
// checked elsewhere (client, trusted/audit). Its types are safe to copy, its functions for
// concurrent use. Read api.go (paths, sessions, instances) first; then grant.go and
// grant_code.go, entry.go and head.go for the log, and the rest by what it is named after.
package owners
