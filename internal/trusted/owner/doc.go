// Package owner is what guards an owner's token before it leaves: it judges a
// session template that comes from the operator, and keeps the owner's own
// knowledge on disk.
//
// # Templates
//
// The operator offers a template, and nobody trusts the operator. So nothing is
// read out of it but the measurements it proposes: Review makes the template
// again from inputs that the owner gave, compares canonical forms, and names
// every difference. What is uploaded is always the template made here, never
// the operator's bytes. A measurement is accepted if the owner vouched for it
// (rebuilt it for that runtime) or named it on the command line.
//
// # The owner's directory
//
// Dir holds the identity key (whoever has it is the CREATOR of the owner's
// sessions), the pins of attested CASes, the measurements vouched for, the
// sessions created, and the apps deployed. Every file has a version, is written to a temporary name
// and renamed, and is changed under one lock, so that two commands at once lose
// nothing.
//
// Trust: the file system of the owner's machine. Templates, and replies of a CAS
// whose identity is not the pinned one, are untrusted. Template, Review, Compare
// and Pin.Check are pure; a Dir is safe for concurrent use, by processes too.
package owner
