//go:build e2e

// Package harness gives end-to-end tests a world: an operator with `cupel up`
// on free ports and a state folder of its own, a private git server, and owners
// with folders of their own who run the real commands without root.
//
// The parties share no folder. What a test knows it knows from commands, as a
// person would; the state folder is looked into only by tests that play an
// attacker on the operator's side.
//
// A world is one test's (World.T) and not safe for concurrent use, but for the
// methods of Party: several commands may run at once. It is taken down when the
// test ends, passed, failed or panicked; a reaper process does it if the test
// binary is killed. What is left on the machine then fails the test.
//
// Tests need root, and the binaries that `make build` puts into bin/ (or into
// the folder that CUPEL_BIN names).
//
// Begin with world.go, and party.go for what a party may do; flow.go has the usual road
// from images to a deployed app, cas.go and https.go what is looked at behind it.
// process.go, leftovers.go and reaper.go see that nothing stays. It is trusted by nobody
// and trusts the machine that it runs on.
package harness
