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
package daemon
