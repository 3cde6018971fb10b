// Package node is the instance's end of the connection to its node, which keeps the
// ciphertext of volumes and hears how far the instance is.
//
// Nothing that the node says is trusted: a snapshot is good if it verifies against the tag
// at the CAS, and whoever calls Get does that.
//
// A Node is safe for concurrent use. All of it is in node.go; the messages are in package
// wire.
package node
