package main

import "cupel.dev/cupel/api/problem"

// Rules that this program raises itself.
const (
	// ruleFlags: a flag of cupel-cas is missing, unknown, or has a value that it can't have.
	// Mend: run cupel-cas -help.
	ruleFlags problem.Rule = "flags"

	// ruleStateInUse: another cupel-cas uses the state folder.
	// Mend: stop it first.
	ruleStateInUse problem.Rule = "state_in_use"
)
