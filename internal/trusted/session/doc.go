// Package session is the session language: what an owner writes down about
// which measured code may have which secrets (SCONE session language 0.3, the
// subset of the main road, in the shape that carries the whole).
//
// It is pure: no I/O, no clock, no randomness. Input is untrusted text; Parse
// refuses unknown and duplicate keys with line and column. A *Session is
// immutable after Parse and safe for concurrent use.
//
// # From text to session
//
// Tree reads YAML strictly: one document, no anchors, aliases, tags or
// duplicate keys, bounded size and depth. Fill replaces template variables on
// that tree, so that a value can never become structure. Parse turns the tree
// into a Session with every default made explicit, and refuses what the
// language knows but this version does not carry by name, apart from what
// nobody knows: an owner must never believe that a line had an effect that it
// did not have.
//
// # Canonical form
//
// Canonical writes a Session as text that parses to the same Session, by rules
// of its own (not those of a YAML library, whose releases may differ). Hash is
// taken over it and over the creator's key.
//
// # Reading order
//
// session.go (what a session is), language.go (its keys), syntax.go (Tree), variables.go
// (Fill), parse.go with reader.go and one file for each part (service.go, secrets.go,
// access.go, cupel.go, host.go, text.go), canonical.go. shell.go is advice on commands, for
// the command line. rules.go has what texts are refused by.
package session
