// Package secrets is what a session's secrets are worth: values that were given or
// are generated, certificates that are issued, and a service's argv, environment and
// files with all of them filled in.
//
// It keeps nothing. Whoever resolves secrets gives the values that are kept, makes
// durable what was generated, and only then hands it out: the CAS, under a lock of
// the session's. It trusts the session that it is given to be one that was parsed and
// checked, and the machine's random numbers.
//
// A Material and a Config are immutable and safe for concurrent use. Resolve changes
// the map of kept values that it is given, and nothing else.
//
// Read material.go (a secret with its value), generate.go and certificate.go (how it
// comes to be), resolve.go (what it depends on, and when it is made again), then
// config.go (what an instance gets).
package secrets
