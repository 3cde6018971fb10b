// Package node turns assignments into running instances on one machine. It is
// the manager's Backend for this machine, and part of the operator: nobody has
// to trust it, and it never holds a key.
//
// It owns the state folder's parts that belong to instances:
//
//	instances/ID.json    the journal: what shall exist, and how it ended
//	damaged/ID.json      records that can't be read
//	damaged/VOLUME-GENERATION-TAG  snapshots that are not what was stored
//	run/ID/              the socket directory that is mounted into the instance
//	etc/ID/              its resolv.conf and hosts
//	logs/ID/             its output
//	netns/ID             its network namespace
//	volumes/VOLUME/GENERATION-TAG  snapshots of encrypted volumes: ciphertext
//	volume-users/VOLUME/APP  which apps used a volume
//	launcher/DIGEST      the launcher, a copy that no rebuild replaces
//
// and, through the interfaces in runtime.go, its container, its address and its
// attestation socket.
//
// An instance's record is written before anything else of it is made and
// removed after everything else is gone, so that a crash at any step leaves
// either an instance or a record by which it is cleaned up. Adopt goes through
// the records after a restart: running instances are taken over untouched,
// half-made ones are removed, and what has no record is nobody's and goes. Run looks
// at all of that again and again, so that what could not be taken over, removed or
// given back once is not left for good. No call of a part that may hang is without a
// deadline, and what fails is told (Config.Tell).
//
// It trusts the machine: containerd, the CNI plugins and the kernel, as far as they answer,
// and its own state folder, as far as it can be read. It trusts no instance: what a
// launcher says or sends on its node socket is checked, and speaks for that instance alone.
//
// Concurrency: one operation at a time for an instance (its own lock), any
// number for different ones; Node.mu guards the table and every instance's
// status and is never held over a call that waits. An instance's locks are taken in the
// order op, save, Node.mu.
//
// Read it along the road of an instance: node.go and runtime.go (what a node is made of),
// start.go and given.go (how an instance comes to be), instance.go and record.go (what is
// known of it, here and on disk), socket.go (what its launcher says), watch.go, health.go,
// listening.go and suspended.go (how it is), stop.go (how it ends) and adopt.go (what a
// restart finds). volumes.go and its siblings keep the snapshots of encrypted volumes.
// trouble.go is how each failure is told, and each call given a deadline. The rest are
// single duties: events.go, etc.go, launcher.go, mounts.go, socketdir.go, tendlog.go.
package node
