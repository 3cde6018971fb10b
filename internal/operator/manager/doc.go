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
// touch the Backend, but to read logs and the memory in use. One mutex of Manager's
// guards all that it keeps in memory; no call of the Backend, the Balancer or a CAS is
// made under it.
//
// One word, one thing. An App is deployed in Revisions, of which a Rollout brings the
// next one to serve. A Replica is one of the instances that an app is to have; it goes on
// over restarts, and each run of it is an attempt, which is what the Backend calls an
// instance and names by attemptID. A Notice is what a CAS has to be told.
//
// Read state.go and backend.go first: what is desired, and who carries it out. Then the
// loop: loop.go (a pass), world.go (what it looks at and decides), plan.go, rollout.go
// (deployments), supervise.go (replicas), actions.go (slow calls). What else the planner
// plans has a file each: starts.go, frontends.go, draining.go, renewal.go, notices.go,
// codes.go. Requests come in by api.go: deploy.go, grants.go and limits_keys.go decide
// about deployments, service.go about removals; view.go and stream.go show.
package manager
