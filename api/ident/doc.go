// Package ident holds the leaf types by which parties name things to each
// other: sessions, services, digests, measurements, key hashes, and what they hold.
//
// It trusts nothing: every constructor checks its input, and none quotes it in
// an error. Those errors are plain ones: the caller says under which rule it refuses. All
// types are values, safe for concurrent use, and marshal to the text that a person would type.
//
// Read ident.go first; terms.go has the names that are text without a form of their own.
package ident
