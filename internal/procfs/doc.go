// Package procfs reads what the kernel tells of a process: whether it is there, works,
// waits or was stopped, and whose it is. It decides nothing.
//
// It trusts the kernel. What a process says of itself, its name and its arguments, it
// believes only of processes of users that the caller names. It keeps no state; its
// functions are safe for concurrent use, and what they tell may have changed since.
//
// Read procfs.go first, which reads the state of one process; then ours.go, which finds the
// processes that somebody entitled started, and what they are.
package procfs
