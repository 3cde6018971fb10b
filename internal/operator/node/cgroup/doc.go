// Package cgroup reads and removes the control groups of instances, in both
// versions: v2 alone, or v1 controllers in a tree each (with or without an
// empty v2 tree beside them).
//
// It owns no group. Those of instances the low-level runtime creates, from the launch
// spec; daemons join one of theirs. It trusts the kernel's files as far as they parse.
//
// It has no state but where the trees are mounted, and is safe for concurrent use.
//
// Read cgroup.go first: Tree and what it says of a group, then Membership, which says in
// which groups a process is. join.go is for daemons.
package cgroup
