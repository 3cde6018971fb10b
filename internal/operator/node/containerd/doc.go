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
//
// Read runtime.go first, by which an instance is started, ended and listed, and daemon.go
// for the process that it asks: found.go finds that process, answer.go tells whether it
// hangs, shims.go is about the processes between it and the instances. images.go brings
// images, with ondisk.go (unpacked layers survive a power cut) and lost.go (those that did
// not). inspect.go and root.go are Inspect.
package containerd
