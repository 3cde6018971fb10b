package netcheck

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// ruleNetworkBlocked: a firewall or a setting of the kernel stands in the way of what instances
	// or users need. Mend: run the commands that the check names, then cupel check again.
	ruleNetworkBlocked problem.Rule = "network_blocked"

	// rulePortsExhausted: no port is left that the check could try as a public one. Mend: free a
	// port of this machine.
	rulePortsExhausted problem.Rule = "ports_exhausted"
)
