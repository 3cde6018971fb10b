// Package httpproblem answers HTTP requests with refusals, the same way in every server:
// those of the CAS, of the LAS, of the node and of the manager.
//
// It trusts nothing of a request, keeps no state, and is safe for concurrent use.
package httpproblem
