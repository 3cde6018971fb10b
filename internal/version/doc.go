// Package version says what this build is. `make build` sets the variables by
// the linker; a plain `go build` leaves them empty, and whoever needs one
// answers an error instead of guessing.
//
// It owns these three words and trusts whoever built the program. Nothing in it changes at
// run time; safe for concurrent use.
package version
