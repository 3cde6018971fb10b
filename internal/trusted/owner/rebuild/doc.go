// Package rebuild turns a runtime's definition and lock into an image: the same
// bytes on the operator's machine, who runs it, and on the owner's, who must
// know what runs.
//
// A Definition says what a runtime consists of; an owner can read all of it. A
// Lock says which packages that meant on one day, down to the hash of every
// .deb and of the signed indices that offered them. Build walks the chain from
// Debian's signature down and works the lock's list out again from definition
// and indices: a lock can't add, leave out, swap or hold back a package.
//
// Trusted: the definition in the caller's hands and the keys embedded in
// package debian. Not trusted: the lock, and every byte that a Source hands
// out. Nothing out of a package is ever run, and nothing is written outside of
// one temporary folder: no root, no chroot, no maintainer scripts. What those
// scripts would have done and runtimes need (merged /usr, users, the bundle of
// certificate authorities) is done here, in code that can be read.
//
// A Builder and an Image are safe for concurrent use once made; one Build is
// one goroutine, with file contents spooled to disk and not kept in memory.
//
// Begin with Build in build.go, which makes the image. definition.go and lock.go are the
// two files that it works from; archive.go verifies the lock's indices and compares its
// packages; tree.go unpacks the packages and packs the layer. source.go says where bytes
// come from, and artifact.go how a registry keeps all of them.
package rebuild

import (
	"cupel.dev/cupel/api/problem"
)

// refused is the error of bytes that break a rule: nothing was built.
func refused(rule problem.Rule, format string, args ...any) *problem.Error {
	return problem.New(problem.Denied, rule, format, args...)
}

// invalid is the error of a file that can't be read as what it should be.
func invalid(rule problem.Rule, format string, args ...any) *problem.Error {
	return problem.New(problem.Invalid, rule, format, args...)
}
