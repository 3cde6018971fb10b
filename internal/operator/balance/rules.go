package balance

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// ruleBalancerClosed: a port was to be served by a balancer that was closed. Mend: wait until
	// cupeld is up again, and repeat.
	ruleBalancerClosed problem.Rule = "balancer_closed"

	// ruleBalancerLimit: a limit of the balancer has no known name, or a value out of its range.
	// Mend: write it as in --balancer connections=8192,client-idle=1h.
	ruleBalancerLimit problem.Rule = "balancer_limit"

	// ruleEndpoint: an instance behind a public port has no port, has no address in the instances'
	// network, or is listed twice. Mend: report it as a fault of the manager.
	ruleEndpoint problem.Rule = "endpoint"
)
