// Package wire is what an instance says and hears, in one definition for both ends of each
// of its three connections: to the CAS (release.go), to the local attestation service of its
// node (las.go), and to the node itself (node.go).
//
// It owns the messages and their limits, the launch binding and the binding of evidence to
// a connection (binding.go), and the check of the certificates that a CAS presents
// (chain.go). It opens no connection.
//
// The CAS is reached over TLS 1.3 with session tickets off, HTTP/1.1, port 18765. The
// instance presents a fresh self-signed ECDSA P-256 certificate; the hash of its key is the
// instance's id and authenticates every later request. LAS and node are reached over Unix
// sockets of the instance's own, and nothing that they say is trusted.
//
// Types and pure functions, safe for concurrent use.
package wire
