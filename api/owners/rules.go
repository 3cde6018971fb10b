package owners

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleGrantToken problem.Rule = "grant_token"
)
