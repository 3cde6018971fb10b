// Package wording says in words what the system or Go calls otherwise: why a file can't be
// used, why a connection comes to nothing, what is wrong with a certificate. Both
// commands, cupel and cupeld, show refusals through it.
//
// It trusts nothing that it is given: text of others is written out so that a terminal
// obeys none of it and nobody takes it for ours. It keeps no state; safe for concurrent use.
//
// Read wording.go first, which says an error or a problem in words, and names the state
// folder in the commands of a text; then text.go, which makes anybody's text fit to be
// shown, as a line, as a document or as JSON; then print.go, the one form in which a person
// sees a refusal.
package wording
