// Package template guards what an owner puts into a session before it leaves: it makes the
// session template out of the owner's inputs, and judges one that comes from an operator.
//
// The operator offers a template, and nobody trusts the operator. So nothing is read out of
// it but the measurements it proposes: Review makes the template again from inputs that the
// owner gave, compares canonical forms, and names every difference. What is uploaded is
// always the template made here, never the operator's bytes. A measurement is accepted if
// the owner vouched for it (rebuilt it for that runtime) or named it on the command line.
//
// Everything here is pure and safe for concurrent use. Read Inputs and Render (template.go)
// first, then the checks of single inputs (git.go, names.go, variables.go), then Review and
// what it compares by (review.go, differ.go, shown.go).
package template
