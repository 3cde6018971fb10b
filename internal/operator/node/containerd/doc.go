// Package containerd is the node's Runtime: a private containerd daemon with
// its own root, state, socket and namespace, and the client that runs instances
// on it. It never touches the machine's own containerd.
//
// The daemon is started in a session of its own and outlives this process; the
// next one finds it by its pid file and takes it over. When it dies, it is
// started again: instances are children of their shims, not of the daemon, and
// go on meanwhile.
//
// It also tells the local attestation service what was really launched
// (Inspect): what the low-level runtime got and what the root stands on, read
// from the daemon's own files and the kernel, not from what the node asked for.
//
// Safe for concurrent use.
package containerd
