// Package problem is the one error that a person or program meets: a refusal
// that explains itself. It is mapped once to an HTTP status and once to an exit
// code, and travels as the error body of every Cupel API.
//
// An Error never holds a secret: Expected and Actual are shown to whoever asked. What is
// decoded of somebody else is not believed: Source is set by who reads, and a body that is no
// problem is never quoted.
//
// It owns the rules that more than one package raises or compares with (rules.go,
// rules_pull.go); every other rule is a constant of the package that raises it. Functions are
// safe for concurrent use; an Error is built by one goroutine and then left as it is.
//
// Read problem.go, then rules.go; reply.go and decode.go are for those who decode JSON.
package problem
