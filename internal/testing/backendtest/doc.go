// Package backendtest is the contract of manager.Backend as a test suite that
// every implementation runs, and a Fake in memory that passes it.
//
// It owns what is checked of a Backend; what a Backend is to do is written at the
// interface. It belongs to tests: nothing else may import it. The suite's tests run one
// after the other, each with a Subject of its own; a Fake is safe for concurrent use,
// once its fields are set.
//
// Read backendtest.go first, then fake.go.
package backendtest
