package casdb

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleStateForeign problem.Rule = "state_foreign"
	ruleStoreClosed  problem.Rule = "store_closed"
)
