package daemon

import (
	"cupel.dev/cupel/api/problem"
)

// Rules of the flags of `up`.
const (
	// ruleListen: an address to listen at is none of this machine's, or can't be listened at.
	// Mend: give ADDRESS:PORT of this machine with the flag that it names.
	ruleListen problem.Rule = "listen"

	// ruleFirstPort: the search for an app's free port would begin below the ports that every app may have.
	// Mend: give another --first-port; --low-ports lets apps have ports below by name.
	ruleFirstPort problem.Rule = "first_port"

	// ruleKeepAlive: instances would report to the CAS more often than it lets them.
	// Mend: give another --keep-alive, or leave it out.
	ruleKeepAlive problem.Rule = "keep_alive"

	// ruleCASConnections: the APIs of the CAS can't have that many connections open at once.
	// Mend: give another --cas-connections, or leave it out.
	ruleCASConnections problem.Rule = "cas_connections"

	// ruleDrain: connections to an instance that is replaced can't last that long.
	// Mend: give another --drain.
	ruleDrain problem.Rule = "drain"

	// ruleGrace: apps can't have that long from SIGTERM to SIGKILL.
	// Mend: give another --grace.
	ruleGrace problem.Rule = "grace"

	// ruleOvercommit: the flag has a word that it doesn't know.
	// Mend: give warn or refuse, or leave --overcommit out.
	ruleOvercommit problem.Rule = "overcommit"

	// ruleMinFree: what has to be free on the disk is no size, or less than removals need.
	// Mend: give a whole number and a unit with --min-free, like 64M.
	ruleMinFree problem.Rule = "min_free"

	// ruleManagerCert: the public certificate of the manager or its key can't be used.
	// Mend: check the files of --manager-cert and --manager-key.
	ruleManagerCert problem.Rule = "manager_cert"

	// ruleTo: what an instance shall reach is no address that it could call.
	// Mend: give HOST:PORT with --to, of a host that this machine finds.
	ruleTo problem.Rule = "to"
)

// Rules of the list of the keys that may deploy. A start that is refused by
// ruleKeysMissing or ruleKeysUnknown ends with an exit code of its own.
const (
	// ruleDeployKeys: the list of keys that may deploy can't be read, or it is in doubt whether there is one.
	// Mend: mend that file, or name another with --deploy-keys.
	ruleDeployKeys problem.Rule = "deploy_keys"

	// ruleDeployKeysNotKept: it can't be written down that not everybody may deploy, so that a next start would let everybody.
	// Mend: let root write to the state folder, then start again.
	ruleDeployKeysNotKept problem.Rule = "deploy_keys_not_kept"

	// ruleKeysMissing: the last start had a list of the keys that may deploy, and this one has none.
	// Mend: give --deploy-keys again; to let everybody deploy, --deploy-keys all.
	ruleKeysMissing problem.Rule = "deploy_keys_missing"

	// ruleKeysUnknown: it isn't known whether the last start had a list of the keys that may deploy.
	// Mend: give the file that it had with --deploy-keys; to let everybody deploy, --deploy-keys all.
	ruleKeysUnknown problem.Rule = "deploy_keys_unknown"
)

// Rules of the machine and of the state folder.
const (
	// ruleRoot: the command needs root.
	// Mend: run it as root, with sudo.
	ruleRoot problem.Rule = "root"

	// ruleKernel: the kernel lacks something that instances need.
	// Mend: boot a kernel that has it.
	ruleKernel problem.Rule = "kernel"

	// ruleClockNotSet: the clock says an earlier time than what this installation wrote, and doesn't get there.
	// Mend: set the clock (timedatectl, chrony), then run this again.
	ruleClockNotSet problem.Rule = "clock_not_set"

	// ruleNoSystemd: systemd doesn't run this machine.
	// Mend: see the unit with install-service --print, and have your init system run its ExecStart at boot.
	ruleNoSystemd problem.Rule = "no_systemd"

	// ruleNetworkUnchecked: the network could not be tried in the time that there was.
	// Mend: run cupel check, which takes the time that it needs.
	ruleNetworkUnchecked problem.Rule = "network_unchecked"

	// ruleStateMissing: no installation is in the state folder that a unit was made for.
	// Mend: mount the disk that holds it; to begin anew there, run cupel install-service again.
	ruleStateMissing problem.Rule = "state_missing"

	// ruleStateOwner: others than root may write to the state folder, or rename it.
	// Mend: look what is in it, make it root's alone, or name another folder with --state.
	ruleStateOwner problem.Rule = "state_owner"

	// ruleStateUnreachable: the user that the CAS runs as can't enter the state folder.
	// Mend: choose a folder that every user can enter with --state, or make this one so.
	ruleStateUnreachable problem.Rule = "state_unreachable"

	// ruleElsewhere: things of the state folder run by another name of it, or the folder is gone from its name while they run.
	// Mend: have it there again, or run this with the name by which it runs; cupel down --force ends what runs as it is.
	ruleElsewhere problem.Rule = "state_elsewhere"
)

// Rules about who else is at work on the state folder. ruleRuns has an exit code of its
// own.
const (
	// ruleRuns: a cupeld runs on the state folder already.
	// Mend: use it as it is; to give it other flags, end it and start again; to stop apps too, run cupel down.
	ruleRuns problem.Rule = "already_running"

	// ruleAtWork: another command works on the state folder.
	// Mend: wait until that has ended, then run this again.
	ruleAtWork problem.Rule = "at_work"

	// ruleHangs: the cupeld that holds the state folder is stopped and does nothing.
	// Mend: let it go on (kill -CONT) or end it (kill -9), then run this again; apps go on either way.
	ruleHangs problem.Rule = "cupeld_hangs"

	// ruleCupeldEnded: a cupeld ended before it served.
	// Mend: read its log in the state folder, and start it again.
	ruleCupeldEnded problem.Rule = "cupeld_ended"

	// ruleNotReady: a cupeld that was started serves nothing yet, and goes on.
	// Mend: run this again, which waits for it; or see what it does in its log.
	ruleNotReady problem.Rule = "not_ready"

	// ruleDownTimeout: a cupeld that was told to stop still runs, or says nothing of it any more.
	// Mend: read its log and run this again; cupel down --force ends it.
	ruleDownTimeout problem.Rule = "down_timeout"

	// ruleDownUnsafe: apps that write volumes run, and what they need to store them can't be started.
	// Mend: mend that, then run this again, or cupel up, which adopts them; cupel down --force ends them as they are.
	ruleDownUnsafe problem.Rule = "down_unsafe"
)

// Rules of the CAS as a process.
const (
	// ruleCASMissing: the CAS's program is not where it should be.
	// Mend: keep cupel-cas beside cupeld, or name it with --cas.
	ruleCASMissing problem.Rule = "cas_missing"

	// ruleCASStart: the CAS does not come up, or hangs while it starts.
	// Mend: read the CAS's log under the state folder, mend that, then run cupel up again.
	ruleCASStart problem.Rule = "cas_start"

	// ruleCASHangs: the CAS answers nothing; it is ended and started again, which the event of that name tells.
	// Mend: do nothing once; where it comes again, read the CAS's log under the state folder. Kind: event.
	ruleCASHangs problem.Rule = "cas_hangs"
)

// Reasons of events that no rule has the name of.
const (
	reasonCASEnded       = "cas_ended"
	reasonNetworkBlocked = "network_blocked"
	reasonNetworkClear   = "network_clear"

	// reasonRepaired is of something in the state folder that was damaged and is made
	// again.
	reasonRepaired = "state_repaired"
)

// tended is a part of the network that other programs may change, with the reasons of the
// events that tell of it.
type tended struct {
	restored string // something was found, and put right
	broken   string // something could not be put right
	mended   string // that is over
}

// ofNetwork is bridge and forwarding, and ofPacketRules what the balancer has in the
// kernel.
var (
	ofNetwork     = tended{"network_restored", "network_broken", "network_mended"}
	ofPacketRules = tended{"packet_rules_restored", "packet_rules_broken", "packet_rules_mended"}
)
