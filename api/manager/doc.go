// Package manager is the wire format of the manager's API, in one definition for both ends:
// the operator's service that deploys apps, lists instances and tells what happened.
//
// The manager is trusted with nothing. What it says about instances is the operator's word;
// whoever wants proof asks the CAS.
//
// It has types, and the forms of what people type (memory sizes, names). Its types are safe
// to copy, its functions for concurrent use. Read types.go, then memory.go; complete.go says
// without which fields and with which names an answer is none.
package manager
