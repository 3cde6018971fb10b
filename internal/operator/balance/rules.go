package balance

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleBalancerClosed problem.Rule = "balancer_closed"
	ruleBalancerLimit  problem.Rule = "balancer_limit"
	ruleEndpoint       problem.Rule = "endpoint"
)
