// Package manager decides what runs: it owns apps, their desired state, the
// instances that carry it out and the events that tell why.
//
// It is the operator's part and nobody has to trust it: it sees names, counts,
// ports and states, never a secret. What an instance may have is decided by the
// CAS from evidence; the manager can only fail to run it, which shows.
//
// Concurrency: one goroutine, Manager.Run, owns every decision. It is
// level-triggered: each pass compares the desired state in the Store with what
// the Backend lists and takes the next step, so that a lost event costs time
// only and a killed manager goes on where it was. Events only wake it: however
// many come during a pass, one more pass follows. Slow calls of the Backend run
// beside it, one at a time for an instance, and note their outcome. API
// requests write desired state in one transaction and wake the loop; they never
// touch the Backend, but to read logs and the memory in use.
package manager
