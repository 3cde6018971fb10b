// Package appraise compares Claims with a Policy and explains the outcome.
//
// It is pure: no I/O, no clock. An absent expectation is an error, never "not
// checked". It knows no session: whoever holds one turns it into a Policy.
//
// It trusts nobody: claims come from the verifier, policies from whoever expects
// something. Pure functions, safe for concurrent use.
//
// Read appraise.go (the policy) first, then decide.go (rule by rule) and tcb.go (what
// the platform's state may be).
package appraise
