// Package home is an owner's directory: what they know and keep on their own machine.
//
// Dir holds the identity key (whoever has it is the CREATOR of the owner's sessions), the
// pins of attested CASes, the providers met, the sessions created, and the apps deployed.
// Reference values lie in the same directory and are package reference's. Every file has a
// version, is written to a temporary name and renamed, and is changed under one lock, so
// that two commands at once lose nothing.
//
// It trusts the file system of the owner's machine. Replies of a CAS whose identity is not
// the pinned one are untrusted; Pin.Check is pure. A Dir is safe for concurrent use, by
// processes too.
//
// Read dir.go (files, versions, the lock), keypair.go, pin.go, then deployed.go and provider.go.
package home
