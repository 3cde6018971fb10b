// Package secret holds the type of everything that must not be printed, logged,
// compared or marshalled by accident.
//
// A Value is immutable and safe for concurrent use. The only way to its bytes is
// Reveal, which a reviewer can search for.
//
// It trusts whoever calls Reveal. All of it is in secret.go.
package secret
