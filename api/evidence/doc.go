// Package evidence defines what is passed between those who make evidence, those who judge
// it, and those who want to know the outcome (RFC 9334): Evidence before verification,
// Claims after it, a Decision after appraisal, and what a Decision is made by: accepted code
// (CodeIdentity, Signer) and tolerated weaknesses (Tolerance).
//
// It owns the form of these terms in JSON, which CASes keep and clients read. It trusts
// nobody and judges nothing: whoever verifies and appraises is somebody else. Its types are
// values, safe to copy; those with lists, maps or pointers are to be left as they are by all
// who share them.
//
// Read evidence.go (Evidence, Claims), then decision.go, then identity.go and tolerance.go.
package evidence
