package home

import "cupel.dev/cupel/api/problem"

// Rules that this package raises.
const (
	// ruleCASIdentityChanged: the CAS has another identity key than when it was attested.
	// Mend: send it nothing and ask whoever runs it; only if the answer satisfies you, attest it anew with --forget.
	ruleCASIdentityChanged problem.Rule = "cas_identity_changed"

	// ruleCASLogForked: the CAS shows another audit log than it has shown before.
	// Mend: send it nothing and ask whoever runs it; only if the answer satisfies you, attest it anew with --forget.
	ruleCASLogForked problem.Rule = "cas_log_forked"

	// ruleCASLogOlder: the CAS's audit log ends before an entry that it has shown before: an old state was put back.
	// Mend: send it nothing and ask whoever runs it; only if the answer satisfies you, attest it anew with --forget.
	ruleCASLogOlder problem.Rule = "cas_log_older"

	// ruleIdentityLost: the owner's key is gone, and what was made with it is there.
	// Mend: put the key back from a backup; to begin anew without what it made, move those files away.
	ruleIdentityLost problem.Rule = "identity_lost"

	// ruleOwnerDirectory: the owner's directory can't be used, is writable by others, or is locked by another command.
	// Mend: mend its permissions, make room, or wait for the other command; or choose another with --config.
	ruleOwnerDirectory problem.Rule = "owner_directory"

	// ruleOwnerState: a file of the owner's directory is damaged, or of a newer release.
	// Mend: put it back from a backup, or use the release that wrote it.
	ruleOwnerState problem.Rule = "owner_state"

	// ruleSimulationUntrusted: a session was to tolerate a simulated platform, and the CAS was attested on hardware.
	// Mend: leave out --simulation, or attest the CAS of the simulated installation with --trust-simulation.
	ruleSimulationUntrusted problem.Rule = "simulation_untrusted"
)
