// Package las asks the local attestation service of an instance's node for evidence, from
// inside the instance.
//
// The service is not trusted: what it answers is only good if it verifies.
//
// A Client keeps no connection, and is safe for concurrent use. All of it is in client.go.
package las
