// Package registry is the OCI transport of images, runtime sources and volume
// snapshots: an embedded registry and a client that speaks to it or to any
// other.
//
// It is on the operator's side and holds nothing that needs trust: images are
// measured when they start, sources are hashed by whoever builds from them,
// snapshots are ciphertext whose tag the CAS knows.
//
// The embedded registry owns one folder. Root on this machine may write to it;
// everybody else can only read it, whatever address it listens on.
//
// Server and Client are safe for concurrent use. Several processes may have a
// folder open (a build that runs beside cupeld); garbage is collected only by
// one that is alone, which a file lock decides, and while nobody pushes to it.
//
// Terms are those of the OCI image and distribution specifications: a manifest names a
// config and layers by their digests, a reference is REPOSITORY:TAG.
//
// Begin with client.go, which pushes and pulls, and volume.go, which does it with
// snapshots; explain.go and broken.go say what an error means. server.go runs the embedded
// registry behind gate.go, which says who may write and when garbage may go; full.go and
// damage.go put right what the library below says of a full disk and of lost bytes.
package registry
