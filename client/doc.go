// Package client talks to a CAS as an owner does (CAS), to its API for instances as the
// holder of a grant (Holder), and to an operator's manager (Manager). docs/client.md shows
// how a program of your own uses it.
//
// # What it trusts
//
// Nothing on the way. A CAS speaks only to the identity that it was given (a Pin), or, for
// Attest, to whatever proves to be the expected code on trusted hardware and thereby becomes
// the Pin. Names, public certificate authorities and the address prove nothing. Every reply
// carries the signed end of the CAS's audit log; a reply whose log is behind, or forked from,
// what this client saw before is refused.
//
// A manager is trusted with nothing, whoever answers: what it says about instances is the
// operator's word, and whoever wants proof asks the CAS.
//
// # Errors
//
// Refusals are *problem.Error. A call that was ended by its context returns the context's
// error. What the other side refuses comes with its own kind and rule, as docs/errors.md lists
// them; beside that, these are of this package.
//
// Every call of a CAS, but where its own comment says otherwise:
//   - unauthenticated: cas_not_attested before Attest or a Pin; cas_identity where another CAS
//     answers than the pinned one
//   - unavailable: cas_unreachable; cas_address where no CAS answers; reply
//   - denied: audit_head, audit_head_signature, audit_log_older, audit_log_forked,
//     audit_log_cut, where the CAS's log is not the one that was seen before
//   - the error of CASOptions.Save
//
// Every call of a Holder: unavailable, with cas_unreachable or cas_other; internal, with reply.
//
// Every call of a Manager: unavailable, with RuleAway or reply; unauthenticated, with
// RuleCertificate; manager_address where no manager answers.
//
// # Concurrency
//
// CAS, Holder and Manager are safe for concurrent use.
//
// Read cas.go (how a call is made, and what of each reply is checked), attest.go and log.go
// first; session.go, grant.go, trail.go and volume.go are one call each. holder.go stands
// alone. The manager's side is manager.go, with manager_certificate.go for who answers and
// manager_told.go for what is believed of it.
package client
