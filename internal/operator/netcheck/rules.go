package netcheck

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleNetworkBlocked problem.Rule = "network_blocked"
	rulePortsExhausted problem.Rule = "ports_exhausted"
)
