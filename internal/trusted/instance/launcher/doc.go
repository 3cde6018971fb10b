// Package launcher is what cupel-init runs: PID 1 of every instance, the one
// program between the node, which nobody trusts, and the owner's app.
//
// It owns the road from a bare container to a running app: look at what the
// host gave (environment, mounts, swap), talk to the CAS (attest, receive the
// service's configuration), open the volumes, build the app's own root, start
// the app without privileges, stay as its parent, end it with all that belongs
// to it, store the volumes when it ended well, report the exit.
//
// What ended well is the app's and the session's to say, never the host's: the
// first process ended with 0, or, in a service, by the stop signal that the
// launcher sent it; and nothing of the app had to be killed. Other signals of the
// host are passed on and decide nothing.
//
// The rights at the CAS are kept meanwhile: reports, attestation anew after a
// lapse or when a certificate is due, files renewed in the app's root. If they
// are withdrawn, if another copy writes the volume, or if the CAS is silent for
// longer than the session allows, the app ends and nothing of it is kept.
//
// It works in three stages, all of this binary. The first keeps the sockets of
// LAS and node, the connection key and the volume keys. The second is a child
// in a mount namespace of its own: it builds a root out of the image (read
// only), a tmpfs over it (writable, in memory) and the volumes, puts the files
// there and leaves the old root behind. The third is the first's child too, in a
// user namespace of its own: it drops every privilege and becomes the app. So the
// app has neither sockets nor keys, no user of the host reads its memory, and the
// first stage is undumpable.
//
// It trusts the kernel that it runs on and the CAS whose identity is in the
// launch binding L of its own evidence. The operator chose L, and can choose
// which session an instance serves; but a CAS other than the one in L gets no
// request, and the CAS that is in it releases nothing for another L. Whatever
// else comes from the host (mounts, files of the image's config apart from
// argv, ciphertext, cgroup files) is checked or only costs the operator a run.
//
// Every end is a single line on the standard error that begins with
// "cupel-init: " and carries no secret, a Status for the node, and an exit
// code: the app's, 128 and the signal that ended it, 127 for a command that
// does not exist, 126 for one that can't be executed, 125 for everything in
// which the launcher itself refused or failed: that a job which ended with 0
// can't be kept, and that the rights ended, among it.
//
// One goroutine runs the road. From the release on others stand beside it: one
// keeps the rights at the CAS, one watches for how long that is silent, one tells
// the node what it missed; one hands on signals all along. While the app runs,
// one alone reaps the processes.
//
// # In which order to read it
//
// The road: launcher.go, from Run down.
//
// What the host gave, checked before anything is asked for: host.go (environment,
// arguments), selfcheck.go and probes.go (the launcher's own rights and filter),
// mountinfo.go, memory.go (limit and swap), system.go (how the kernel is asked),
// staging.go (where the app's root is gathered).
//
// The wire: cas.go (one client of one CAS, under the instance's key), quote.go (what the
// launcher holds of its own evidence), retry.go (until when something is tried), teller.go
// (what the node hears). The clients of LAS and node are packages beside this one.
//
// The volumes: volumes.go (fetched, verified, opened), commit.go (stored, then swapped at
// the CAS), statement.go (what the app says that it stored). Their plaintext's form is
// package volume, their ciphertext's package sealed.
//
// The app's start: plan.go (what the release asks for), stage2.go and root.go (the app's
// root), approot.go (the launcher's view of it), userns.go (stage 3), user.go,
// privilege.go, attributes.go, appfilter.go and output.go (what it is and may).
//
// The app's life and end: supervise.go (signals, processes), rights.go and renew.go (what
// the CAS gave, kept and renewed), ending.go (how it ended, and whether what it wrote is
// kept).
//
// rules.go names every refusal.
package launcher
