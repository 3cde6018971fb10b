// Package daemon is what `cupeld` does: it wires the operator's parts on one
// machine and keeps them running.
//
// It owns the state folder (one cupeld at a time, by a lock), the names that are
// derived from it, the processes that are started from here and the file that
// tells local commands where everything listens. It trusts its own machine and
// is itself trusted by nobody: no secret passes through it. The CAS is a process
// and user of its own, which this package starts from a binary that it measured.
//
// Concurrency: Up runs each part in a goroutine of one group; the first that
// fails ends all. Down and Cleanup take the same lock, so that none of the three
// ever meets another.
//
// # In which order to read its files
//
// First the ground: layout.go is the state folder and the names derived from it;
// lock.go who works on it, with turn.go (who stops goes before who starts);
// options.go what the flags say.
//
// The road of up: command.go (the command line), command_up.go (its flags, and a
// process that inherits nothing), detach.go (the start of a process that goes on),
// up.go (checks, lock, what is kept of the last start), up_node.go and up_carry.go
// (what carries instances), up_serve.go with cas.go (the CAS, the manager and its
// API), serving.go (what is said once all of it serves).
//
// The road of down: command_down.go, down.go (how a running cupeld is made to stop,
// and what a dead one left is stopped in order), renew.go and ending.go (how long
// that is waited for), remains.go (processes and mounts that are left), cleanup.go.
//
// What a start looks at: check.go the machine, repair.go and explain.go a damaged
// folder, room.go and reserve.go a full disk, ports.go and flags_kept.go the last
// start, clock.go the time, limits.go and deploykeys.go who may have how much.
//
// A folder that isn't where it was: elsewhere.go (another name), away.go (gone from
// its name while things run), gone.go (nothing is there), unseen.go (a cupeld whose
// lock says nothing of it), forgotten.go (the manager's database is lost).
//
// The rest stands by itself: network.go and network_check.go (cupel check),
// service.go and unit.go (systemd), group.go (the daemons' control group), tidy.go
// and logfile.go (what grows), cas_hangs.go and casroom.go (the CAS as a process),
// catalog.go (runtimes), keys.go and publiccert.go (certificates), interrupted.go
// (what a signal leaves of an error), rules.go (how it refuses).
package daemon
