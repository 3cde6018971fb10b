// Package debian reads what Debian publishes: signed Release files, Packages
// indices, version numbers, dependencies and .deb archives.
//
// It trusts the archive keys that it embeds and nothing else: every other byte
// comes from mirrors, registries and folders that anybody may have written.
// Therefore each parser is strict and bounded, and the chain is always walked
// from the signature down: InRelease by key, Packages by the hash in InRelease,
// a .deb by the hash in Packages.
//
// Nothing here runs anything out of a package, writes outside of what it is
// handed, or looks at a clock: a signature is judged at the date of the text
// that it covers, so that a verdict stays the same in ten years. How old an
// index is, is shown to people, who judge it.
//
// All values are immutable after parsing and safe for concurrent use.
//
// Read it along the chain: release.go (InRelease), index.go (Packages), resolve.go and
// version.go (which packages a wish means), deb.go (what is in one). What Debian calls its
// repository format is at wiki.debian.org/DebianRepository/Format; the rest is in deb(5),
// deb822(5), deb-version(7) and the Debian Policy Manual.
package debian
