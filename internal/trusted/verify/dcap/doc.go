// Package dcap verifies Intel SGX quotes of the DCAP kind (version 3, ECDSA
// P-256) on the standard library: the bytes, every signature, every chain,
// revocation, the quoting enclave's identity, the platform's TCB level, and the
// dates of all of it. It answers evidence.Claims; whether those claims are good
// enough is appraise's business.
//
// # What it trusts
//
// The root certificates that New was given, and the caller's clock. Nothing
// else: the quote and all collateral come through the operator's hands, so
// every byte of them is checked against a signature that ends in one of the
// roots, and each document's own dates are held against now. Collateral is
// signed over its exact text and is never re-serialised.
//
// A root given as a simulation root makes Claims.Simulated true, and nothing
// but that root does. Simulated platforms pass through the very same checks.
//
// # Concurrency and cost
//
// A Verifier is safe for concurrent use. All that does not depend on the single
// quote (chains, CRLs, collateral, the quoting enclave's report) is judged once
// and kept, by the digest of its bytes, until the first of its dates passes; a
// clock that runs backwards brings a fresh judgement. In the steady state a
// quote costs one ECDSA verification.
//
// # In which order to read it
//
// dcap.go is the road of one verification. Then, in the order of that road: quote.go
// (the bytes), collateral.go (what comes with them), chain.go and root.go (certificates
// and revocation lists), pck.go (what Intel certifies of the platform), tcb.go and qe.go
// (its level, and that of the quoting enclave), exact.go (how signed JSON is read).
// memo.go keeps verdicts; kinds.go and rules.go name what is refused.
//
// # What it implements
//
// Intel SGX DCAP, ECDSA Quote Library API, appendix A.4 (quotes; package sgxquote has
// the table); Intel SGX PCK Certificate and Certificate Revocation List Profile
// Specification; Intel SGX and TDX Provisioning Certification Service API v4 (TCB info
// of version 3, enclave identity of version 2); RFC 5280 (certificates, revocation
// lists).
package dcap
