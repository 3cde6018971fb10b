package home

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleCASIdentityChanged  problem.Rule = "cas_identity_changed"
	ruleCASLogForked        problem.Rule = "cas_log_forked"
	ruleCASLogOlder         problem.Rule = "cas_log_older"
	ruleIdentityLost        problem.Rule = "identity_lost"
	ruleOwnerDirectory      problem.Rule = "owner_directory"
	ruleOwnerState          problem.Rule = "owner_state"
	ruleSimulationUntrusted problem.Rule = "simulation_untrusted"
)
