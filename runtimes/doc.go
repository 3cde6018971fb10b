// Package runtimes holds the definitions of the runtime images that Cupel
// comes with, so that a command carries the ones its owner has read.
//
// It owns text and finds it; owner/rebuild says what the text means. A definition that lies
// in a file is nobody's in particular: whoever finds one says where it was found. It keeps
// no state; safe for concurrent use.
//
// Read runtimes.go first, which has the definitions that are built in; then find.go, which
// looks for one by its name, in files too.
package runtimes
