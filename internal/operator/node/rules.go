package node

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleGeneration       problem.Rule = "generation"
	ruleInstanceExited   problem.Rule = "instance_exited"
	ruleInstanceID       problem.Rule = "instance_id"
	ruleInstanceLeftover problem.Rule = "instance_leftover"
	ruleNetworkHangs     problem.Rule = "network_hangs"
	ruleStartSlow        problem.Rule = "start_slow"
	ruleStatus           problem.Rule = "status"
	ruleStopTimeout      problem.Rule = "stop_timeout"
	ruleVolumeTooLarge   problem.Rule = "volume_too_large"
)
