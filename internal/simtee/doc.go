// Package simtee is a simulated SGX platform: it makes byte-exact DCAP version 3
// quotes, and everything that a hardware maker would publish about the platform
// (certificates, revocation lists, TCB info, the quoting enclave's identity),
// under a root of its own that is made once per installation.
//
// # What it is worth
//
// Nothing, as protection: whoever can read the state folder, or ask the
// platform, gets a quote for any measurement. It exists so that all of
// attestation is exercised, by the very verifier that judges real hardware,
// where there is none. That is why it can only be believed on purpose: its root
// is in no verifier until somebody puts it there as a simulation root, every
// subject name says SIMULATED, and claims verified under it say so too.
//
// It trusts its state folder and clock. cupel-cas and cupel-init never link it.
//
// # Concurrency
//
// A Platform is safe for concurrent use. Several processes may open one folder:
// the first makes the keys, the others read them.
//
// # In which order to read it
//
// simtee.go is the platform and what it can be told to be; quote.go makes quotes, by
// the table of package sgxquote; keys.go makes and keeps the platform's keys and
// certificates; collateral.go is what its maker publishes.
package simtee
