// Package grantstest is what every implementation of manager.Grants must do, and
// a CAS in memory that does it.
//
// It owns what is checked of holders of grants; what they are to do is written at the
// interface. It belongs to tests: nothing else may import it. The suite's tests run one
// after the other, with a grant of their own each; a Fake is safe for concurrent use.
//
// Read Run first, then Fake.
package grantstest
