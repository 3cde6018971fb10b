// Package connlimit gives a listener so many places for open connections, so that
// strangers don't keep others out, nor take what the process has of descriptors and
// memory.
//
// It owns the places, and whom to close for another. It trusts nothing of who connects, and
// takes the HTTP server's word on what a connection is at. A Listener is safe for concurrent
// use: all of its state is guarded by one lock, which is never held over a call to a connection.
//
// Read connlimit.go from the top: Limit and Accept, then makeRoom, which decides.
package connlimit
