package main

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleFlags      problem.Rule = "flags"
	ruleStateInUse problem.Rule = "state_in_use"
)
