package problem

// Rules of requests and answers: servers give them, clients raise them of what they are
// answered, and both compare with them.
const (
	// RuleBody: the body of a request can't be read, or isn't the JSON that the API describes.
	// Mend: send what the API's OpenAPI document describes.
	RuleBody Rule = "body"

	// RulePath: there is nothing at the path that was asked for.
	// Mend: check the address and the port: another of Cupel's APIs, or another release, may answer there.
	RulePath Rule = "path"

	// RuleReply: an answer is not what Cupel's API describes.
	// Mend: check that nothing else answers at that address, such as a proxy, and that both sides are of one release; else ask whoever runs it.
	RuleReply Rule = "reply"

	// RuleInternal: something failed that should not, and no other rule tells why.
	// Mend: read what it says and the log of who said it; if that doesn't explain it, report it.
	RuleInternal Rule = "internal"
)

// Rules of the commands, which `cupel` and `cupeld` both raise.
const (
	// RuleUsage: a command was given arguments or flags that it can't take, or that don't go together.
	// Mend: read the command's --help.
	RuleUsage Rule = "usage"

	// RuleNotConfirmed: a command that destroys something was not confirmed.
	// Mend: run it again and confirm it, or give --yes.
	RuleNotConfirmed Rule = "not_confirmed"

	// RuleInterrupted: a signal ended a command before it was done.
	// Mend: run it again; what it says is left by halves, see to first.
	RuleInterrupted Rule = "interrupted"
)

// Rules of the CAS that answers: clients of owners, the manager and the launcher each hold it
// against the identity that they know.
const (
	// RuleCASClock: the CAS's clock and this machine's are too far apart. Mend: set both clocks right.
	RuleCASClock Rule = "cas_clock"

	// RuleCASIdentity: what answers has not proved to be the CAS with the expected identity key.
	// Mend: don't use it before you know why; to trust a new CAS on purpose, attest it anew with --forget.
	RuleCASIdentity Rule = "cas_identity"

	// RuleCASNotAttested: a CAS was to be used that nobody attested from here.
	// Mend: run cupel cas attest with its address.
	RuleCASNotAttested Rule = "cas_not_attested"

	// RuleCASOther: a CAS was named or answers whose identity isn't the one that is meant.
	// Mend: name the address where instances reach the right CAS (--cas-instances).
	RuleCASOther Rule = "cas_other"

	// RuleCASUnreachable: the CAS does not answer, or not in time.
	// Mend: check the address, the network, and that the CAS runs; then try again.
	RuleCASUnreachable Rule = "cas_unreachable"
)

// Rules of the audit log, which the CAS checks when it starts and owners check with every answer.
const (
	// RuleAuditLogCut: the log ends before the entry that its signed head names.
	// Mend: don't use this CAS; its operator restores the whole state folder from the newest backup.
	RuleAuditLogCut Rule = "audit_log_cut"

	// RuleAuditLogDamaged: the CAS finds its own log cut, edited or unreadable.
	// Mend: restore the whole state folder from its newest backup, and look at the disk.
	RuleAuditLogDamaged Rule = "audit_log_damaged"

	// RuleAuditLogForked: the CAS shows another log than it has shown before.
	// Mend: don't use this CAS: it shows different logs.
	RuleAuditLogForked Rule = "audit_log_forked"

	// RuleAuditLogOlder: the log ends before an entry that this CAS has shown before: its state was put back.
	// Mend: don't use this CAS before its operator has explained that; then attest it anew with --forget.
	RuleAuditLogOlder Rule = "audit_log_older"
)

// Rules of evidence: the verifier and the policy raise them, and the launcher, the CAS's own
// program and the command line meet or compare them.
const (
	// RuleConfigID: what was launched is bound to another CAS, session or service, or is told no SESSION/SERVICE.
	// Mend: launch it for this very CAS, session and service.
	RuleConfigID Rule = "config_id"

	// RuleEvidenceType: evidence is of another kind than this release verifies.
	// Mend: make evidence of the kind that is expected (sgx).
	RuleEvidenceType Rule = "evidence_type"

	// RuleMeasurement: the code that runs is none that is accepted.
	// Mend: measure the runtime anew, and where that is what you trust, update what accepts it.
	RuleMeasurement Rule = "measurement"

	// RuleRoots: the roots that evidence is to be verified under can't be used.
	// Mend: give roots that are certificates and digests in their right form.
	RuleRoots Rule = "roots"

	// RuleSimulationRoot: evidence is of a simulated platform whose root isn't trusted, or a root that was given can't be read.
	// Mend: name that root where this is a test and the root is the one that you mean; else use real hardware.
	RuleSimulationRoot Rule = "simulation_root"

	// RuleLASReply: what the local attestation service answers is no evidence.
	// Mend: check that cupeld and its attestation service are of this release.
	RuleLASReply Rule = "las_reply"

	// RuleLASUnreachable: the local attestation service does not answer.
	// Mend: see that cupeld runs on this machine, then try again.
	RuleLASUnreachable Rule = "las_unreachable"
)

// Rules of sessions: the parser, the CAS, the owner's template and the command line read the
// same texts.
const (
	// RuleSessionSyntax: the text of a session is no YAML that a session may be.
	// Mend: mend it at the line and column that are named.
	RuleSessionSyntax Rule = "session_syntax"

	// RuleSessionDuplicateKey: a key stands twice in one mapping. Mend: remove one of the two.
	RuleSessionDuplicateKey Rule = "session_duplicate_key"

	// RuleSessionVersion: a session's language version, or the version of it that was asked for, is none that can be used.
	// Mend: write the session in a version of the language that is named, or ask for its current version.
	RuleSessionVersion Rule = "session_version"

	// RuleSessionName: a session's name isn't one, or one that can't be used here.
	// Mend: choose another name (--name).
	RuleSessionName Rule = "session_name"

	// RuleSessionNameTaken: a session of that name exists already.
	// Mend: choose another name, or replace the session's current version with --update.
	RuleSessionNameTaken Rule = "session_name_taken"

	// RuleSessionUnknown: there is no session of that name, or none that was created from here.
	// Mend: check the name and the CAS, or create the session.
	RuleSessionUnknown Rule = "session_unknown"

	// RuleSessionHash: a version of a session is not the one that was asked for, sent or created, or may not be asked for by its hash.
	// Mend: stop where you changed nothing yourself: somebody else may have updated it.
	RuleSessionHash Rule = "session_hash"

	// RuleSessionValue: a value for a session is missing, given twice, unknown or too large.
	// Mend: give it once, in the form that is named.
	RuleSessionValue Rule = "session_value"

	// RuleServiceUnknown: the session has no service of that name.
	// Mend: name one of the services of the session's current version.
	RuleServiceUnknown Rule = "service_unknown"

	// RuleAccessPolicy: the session's access_policy doesn't give the caller's key this right.
	// Mend: use the identity that has it (--config), or ask the session's owner for the right.
	RuleAccessPolicy Rule = "access_policy"
)

// Rules of the owner's template, whose inputs the command line asks for.
const (
	// RuleTemplateInput: an input of a session's template is missing, or not of its form.
	// Mend: give it with the flag that is named.
	RuleTemplateInput Rule = "template_input"

	// RuleGitCA: what was given as a git server's authority is no list of certificates.
	// Mend: name the file that holds them in PEM, or leave it out where a public authority signed the server's certificate.
	RuleGitCA Rule = "git_ca"

	// RuleGitUser: the user name for a git server is given twice, has a colon, or is a token.
	// Mend: give --git-user once, with the name alone.
	RuleGitUser Rule = "git_user"

	// RuleOwnerIdentity: the owner's key is not there, damaged, or readable by others.
	// Mend: put it back from a backup, or let only its owner read it.
	RuleOwnerIdentity Rule = "owner_identity"
)

// Rules of grants: the CAS raises them, and the manager, the launcher and the command line do
// something else for one than for another.
const (
	// RuleGrantCode: a code is none, or not one of this CAS's.
	// Mend: copy all of what cupel session submit printed, or have a new one made.
	RuleGrantCode Rule = "grant_code"

	// RuleCodeUsed: a code was handed in before.
	// Mend: make another with cupel session submit, or let cupel deploy do it.
	RuleCodeUsed Rule = "code_used"

	// RuleGrantUnknown: there is no grant of that id. Mend: list them with cupel session grants.
	RuleGrantUnknown Rule = "grant_unknown"

	// RuleGrantMissing: a session that wants a grant is to run under none.
	// Mend: have its owner deploy it, or hand in a code that the owner made (cupel deploy --code @FILE).
	RuleGrantMissing Rule = "grant_missing"

	// RuleGrantOther: the grant is for another session, service or CAS than the one that is to run, or is none of this CAS's.
	// Mend: deploy what the code was made for, or have a code made for this.
	RuleGrantOther Rule = "grant_other"

	// RuleGrantEnded: the right to run was taken back, given back, or its time is over.
	// Mend: ask the session's owner for a new one: cupel deploy, or cupel session submit.
	RuleGrantEnded Rule = "grant_ended"

	// RuleGrantFull: all the copies that a grant allows are running.
	// Mend: wait until one has ended, or let the session's owner raise the number: cupel session grants.
	RuleGrantFull Rule = "grant_full"

	// RuleGrantUsed: a job has run as often as its grant allows.
	// Mend: ask the session's owner for a new grant where it has to run again.
	RuleGrantUsed Rule = "grant_used"
)

// Rules of an instance's rights: the CAS raises them, and the launcher and the manager act by
// them.
const (
	// RuleInstanceUnknown: nothing is known of the instance: the CAS no longer knows what it released to it, or the node has none of that id.
	// Mend: start the instance again: it is attested under a new key.
	RuleInstanceUnknown Rule = "instance_unknown"

	// RuleInstanceLapsed: the CAS heard nothing of the instance for too long, and its rights ended.
	// Mend: see that the instance reaches the CAS; the launcher attests again by itself.
	RuleInstanceLapsed Rule = "instance_lapsed"

	// RuleInstanceGone: the instance's rights have ended for good.
	// Mend: start the instance again.
	RuleInstanceGone Rule = "instance_gone"

	// RuleInstanceExited: an instance has ended, and with it what it was allowed.
	// Mend: start another: it is attested afresh.
	RuleInstanceExited Rule = "instance_exited"

	// RuleInstanceWithdrawn: the instance's right to run was withdrawn.
	// Mend: ask the session's owner for a new grant.
	RuleInstanceWithdrawn Rule = "instance_withdrawn"

	// RuleLeaseEnded: another copy has the right to write the volume, or the session no longer gives it.
	// Mend: restart the instance: it starts from the volume's newest state.
	RuleLeaseEnded Rule = "lease_ended"

	// RuleLeaseHeld: another copy has the right to write the volume.
	// Mend: wait until that copy has ended or lapsed.
	RuleLeaseHeld Rule = "lease_held"

	// RuleStatement: what a program says of what it stored can't be read.
	// Mend: mend the program that writes /run/cupel/statement.json, or let it write none.
	RuleStatement Rule = "statement"
)

// Rules of volumes, between those who store ciphertext and those who have the keys.
const (
	// RuleVolumeID: what names a volume is no id.
	// Mend: give the whole id, as cupel volume ls shows it.
	RuleVolumeID Rule = "volume_id"

	// RuleVolumeStore: stored volumes can't be listed or removed here.
	// Mend: look at what is said of the disk; a manager without a store keeps no volumes.
	RuleVolumeStore Rule = "volume_store"

	// RuleVolumeTag: the tag of a volume's new state is missing or no digest.
	// Mend: restart the instance: a launcher of this release sends one.
	RuleVolumeTag Rule = "volume_tag"

	// RuleVolumeUnknown: the session, the instance or the operator's disk has no volume of that name.
	// Mend: look at the session (cupel session read), or at what is stored (cupel volume ls).
	RuleVolumeUnknown Rule = "volume_unknown"
)

// Rules of apps and of what a deployment asks for: the CAS or the command line refuses them as
// the manager does.
const (
	// RuleAppName: an app's name is not of its form.
	// Mend: give 1 to 40 of a-z 0-9 -, beginning and ending with a letter or digit.
	RuleAppName Rule = "app_name"

	// RuleAppRemoved: the app was removed during its deployment.
	// Mend: deploy it again if that wasn't meant.
	RuleAppRemoved Rule = "app_removed"

	// RuleNotOwner: the app belongs to another key.
	// Mend: use the key that deployed it (--config), or the operator's.
	RuleNotOwner Rule = "not_owner"

	// RuleInstances: the number of instances is none that can be.
	// Mend: give 1 to 100; to end an app, remove it.
	RuleInstances Rule = "instances"

	// RuleMemory: a size of memory is none, or more than the machine has.
	// Mend: give a whole number and a unit, like 256M or 1Gi, within the bounds that are named.
	RuleMemory Rule = "memory"

	// RulePort: a port is missing, or not of its form.
	// Mend: give --port PUBLIC or PUBLIC:CONTAINER, each from 1 to 65535.
	RulePort Rule = "port"

	// RulePortTaken: the port that something should listen on is in use, or none is free.
	// Mend: end what listens there, or choose another.
	RulePortTaken Rule = "port_taken"

	// RuleRuntime: the runtime isn't built here, or isn't known.
	// Mend: let the operator build it, or give --runtime.
	RuleRuntime Rule = "runtime"

	// RuleService: a service of a session's, or of systemd's, can't be used as it is named.
	// Mend: name one that is there; of systemd's unit, see to what is said of it and run this again.
	RuleService Rule = "service"
)

// Rules of how an instance ended or fares: node and manager raise them, and the command line
// explains them.
const (
	// RuleAppEnded: an app that is meant to go on ended by itself, with code 0.
	// Mend: let the session's command be a server that stays in the foreground.
	RuleAppEnded Rule = "app_ended"

	// RuleExited: the app ended with another code than 0. Mend: read cupel logs of the instance.
	RuleExited Rule = "exited"

	// RuleOutOfMemory: the instance was killed for using more than its limit of memory.
	// Mend: deploy with a larger --memory.
	RuleOutOfMemory Rule = "out_of_memory"

	// RuleUnhealthy: the app runs, and takes no connections on its port.
	// Mend: let it listen on the port of all addresses, or name its port with --port PUBLIC:CONTAINER.
	RuleUnhealthy Rule = "unhealthy"

	// RuleLogs: there is no output of that instance or of that run.
	// Mend: see cupel events for whether it has started.
	RuleLogs Rule = "logs"

	// RuleStarts: an instance waits for its turn, or the number that may start at once is none.
	// Mend: wait, it starts by itself; else let the operator give --starts.
	RuleStarts Rule = "starts"
)

// Rules of an operator's machine, which its daemons and commands share.
const (
	// RuleStateFolder: the state folder is none, can't be used, or is of another release.
	// Mend: name the right one with --state, or run this as root.
	RuleStateFolder Rule = "state_folder"

	// RuleStateAccess: a daemon may not write to its state.
	// Mend: let its user own the state folder and all that is in it.
	RuleStateAccess Rule = "state_access"

	// RuleStateDamaged: a file of the state can't be read as it was written.
	// Mend: look at the disk, and put the state back from its backup.
	RuleStateDamaged Rule = "state_damaged"

	// RuleStateNewer: the state was written by a newer release. Mend: run the release that wrote it.
	RuleStateNewer Rule = "state_newer"

	// RuleStore: the CAS's database fails.
	// Mend: look at the CAS's log and disk, then try again or restart it.
	RuleStore Rule = "store"

	// RuleInherited: a daemon can't let go of what whoever started it left it.
	// Mend: do what is said, as root, then start it again.
	RuleInherited Rule = "inherited"

	// RuleOpenFiles: a daemon may not have enough files open.
	// Mend: raise the limit before cupel up: ulimit -n, or LimitNOFILE under systemd.
	RuleOpenFiles Rule = "open_files"

	// RuleCleanup: something is left of an instance or of the state folder that can't be removed.
	// Mend: see to what holds it, then run this again.
	RuleCleanup Rule = "cleanup"

	// RuleToolMissing: a program that the machine needs is not installed.
	// Mend: install the package that is named.
	RuleToolMissing Rule = "tool_missing"

	// RuleLauncherMissing: the launcher isn't there, or not the one that something was deployed with.
	// Mend: build it and keep cupel-init beside cupeld, or name it with --launcher.
	RuleLauncherMissing Rule = "launcher_missing"

	// RuleMemoryLimit: an instance would run without a limit of memory, or with one that nothing starts in.
	// Mend: deploy with a larger --memory.
	RuleMemoryLimit Rule = "memory_limit"

	// RuleImageMissing: an image is not on this machine and not in its registry.
	// Mend: build the runtime, or check the image's name.
	RuleImageMissing Rule = "image_missing"

	// RuleNodeUnreachable: an instance gets no whole answer of the node that it runs on.
	// Mend: look at cupeld's log: it serves the instance's sockets.
	RuleNodeUnreachable Rule = "node_unreachable"

	// RuleRegistryReference: the name of an image or artifact in a registry is not of its form.
	// Mend: give ADDRESS/REPOSITORY:TAG.
	RuleRegistryReference Rule = "registry_reference"

	// RuleRegistryUnreachable: the registry does not answer, or broke off.
	// Mend: start it (cupel up), or look at its log.
	RuleRegistryUnreachable Rule = "registry_unreachable"
)

// Rules of runtimes: owners rebuild what operators build.
const (
	// RuleRuntimeDefinition: a runtime's definition can't be read, or defines another runtime.
	// Mend: mend the definition: cupel runtime show python shows one that can be built.
	RuleRuntimeDefinition Rule = "runtime_definition"

	// RuleRuntimeLock: a runtime's lock can't be read or kept.
	// Mend: take the lock that the operator's build wrote, or write a new one with --update.
	RuleRuntimeLock Rule = "runtime_lock"

	// RuleRuntimeUnknown: there is no definition of that runtime.
	// Mend: name one that cupel runtime list shows, or a file with --definition.
	RuleRuntimeUnknown Rule = "runtime_unknown"

	// RuleSourceBytes: a source sent other bytes than the lock names.
	// Mend: take another source, or write a new lock with --update where Debian has moved on.
	RuleSourceBytes Rule = "source_bytes"

	// RuleSourceMissing: a source hasn't got a file that the lock names.
	// Mend: take the source that belongs to the lock, or write a new lock with --update.
	RuleSourceMissing Rule = "source_missing"
)
