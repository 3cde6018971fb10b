// Package launch is the measured launch: how every instance is started, and
// the number that says so.
//
// It owns the launch profiles, OCI runtime specs of our own (profile-v1.json,
// profile-v2.json), and the measurement over what was really launched: the spec
// that the low-level runtime got, the image's config and layers, and the
// launcher's binary. The node builds specs with [Spec]; whatever plays the
// hardware measures with [Measure]; owners and the CAS compute with [Expected]
// what it must come to.
//
// A [Version] of the profile never changes: what was launched by it goes on
// having its measurement. A spec says itself which version it is of, in a
// measured annotation (v1, which has none, is every other spec), so that nobody
// has to be asked.
//
// The rule that makes it safe: everything in the spec is measured except a
// closed list of fields ([freeFields]) that can't change which code runs or
// what it can reach: the values of the host variables, names and limits
// of the cgroup (never the swap limit), the network namespace, the hostname,
// the root's place on the host and the sources of four bind mounts (one of
// them is the launcher, whose digest is measured instead). A field that this
// package has never heard of is measured, not ignored, so a newer runtime's
// feature can't be used behind its back.
//
// It trusts nothing that it parses: input comes from the operator. Pure
// functions on the standard library, safe for concurrent use.
//
// Read launch.go (the measurement) first, then profile.go (the profiles, and what fills
// them), free.go (what is not measured), image.go, and canonical.go (the JSON that is
// hashed).
package launch
