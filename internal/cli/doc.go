// Package cli is the `cupel` command: one file a command, each a constructor
// newXCommand(g) that parses flags into options and a runX that does the work.
//
// It owns the command line, and what is shown and asked; one place alone makes an exit
// code of an error. The owner's files are package home's, and what the owner decides by
// lives in internal/trusted/owner.
//
// It trusts nothing that a flag, a file or a server says. A manager's word is shown as the
// operator's, and compared with what the CAS, once attested, says under the owner's key.
// It links no orchestration: what the operator runs on a machine is `cupeld`, which
// `cupel up` executes.
//
// Nothing here is safe for concurrent use: one process runs one command. The one exception
// is `logs -f`, whose follower has a lock of its own.
//
// # Where to read
//
//  1. root.go: Main, what all commands share (globals), and how a command ends. Around it
//     are args.go, flags_shared.go and folder.go (what was typed, and the owner's folder),
//     shown.go, color.go and help.go (what people see), ask.go, interrupt.go (requests
//     whose effect stays), and rules.go.
//  2. Whom a command talks to: owner.go is the owner's side with its CAS, manager.go the
//     operator's manager, provider_known.go one on another machine; place.go is where apps
//     are that were deployed from here.
//  3. The road of an owner: cas.go (attest), runtime_measure.go and runtime_source.go
//     (vouch for an image), template.go with template_beside.go and template_command.go,
//     session.go with session_values.go (create).
//  4. deploy.go: deploy_request.go finds CAS and manager, deploy_grant.go gets the right to
//     run, deploy_follow.go, deploy_words.go and progress.go follow the steps,
//     deploy_attested.go has the CAS confirm them, deploy_settle.go leaves one grant,
//     deploy_report.go looks at what answers (answer.go) and tells how it ended.
//  5. verify.go: verify_locate.go finds app and session, verify_claims.go judges the claims
//     of each instance, verify_running.go what runs under which grant, verify_report.go
//     tells it.
//  6. The other commands, each in the file of its name: ps, logs (logs_follow.go), events,
//     info, rm (rm_rights.go), audit, session_*.go, runtime_*.go, volume*.go, provider.go;
//     up.go and operator.go hand over to cupeld, completion.go and completion_script.go
//     serve shells.
package cli
