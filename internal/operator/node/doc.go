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
// Concurrency: one operation at a time for an instance (its own lock), any
// number for different ones; Node.mu guards the table and every instance's
// status and is never held over a call that waits.
package node
