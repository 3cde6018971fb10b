package wire

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleCASChain   problem.Rule = "cas_chain"
	ruleLASAddress problem.Rule = "las_address"
)
