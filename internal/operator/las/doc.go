// Package las is the local attestation service of one node: where an instance's
// launcher, and the CAS, get evidence about themselves.
//
// It belongs to the operator and is trusted by nobody: on a platform that
// measures, evidence that it tampered with does not verify. On the simulated
// platform it plays the hardware, and so it measures what was really launched:
// the spec that the low-level runtime read, the image that the root stands on,
// the binary that the first process executes. It takes nobody's word for any of
// it, the node's least.
//
// Each instance has a listener of its own, in a directory that is mounted into
// that instance only: the listener says who may ask. Who does ask is checked
// too: the peer has to be the instance's first process, in the instance's
// control group. Everything else in the instance (its app) and every
// other process of the machine gets nothing. cupel-cas asks over a descriptor
// that it inherited from the daemon, which measured the binary that it executed.
//
// Server is safe for concurrent use.
//
// Read las.go first (whom it listens to), then handler.go (who gets evidence, and of what
// launch). process.go and places.go hold a running process against its spec, which the
// Inspector does; binary.go measures what a process executes.
package las
