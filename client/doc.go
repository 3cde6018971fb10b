// Package client talks to a CAS as an owner does (CAS), to its API for instances as the
// holder of a grant (Holder), and to an operator's manager (Manager).
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
// # Concurrency
//
// CAS, Holder and Manager are safe for concurrent use.
package client
