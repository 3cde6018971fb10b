package owners

import "cupel.dev/cupel/api/problem"

// Rules that this package raises.
const (
	// ruleGrantToken: a grant's token is no text that one can be.
	// Mend: give what the claim of the grant's code answered.
	ruleGrantToken problem.Rule = "grant_token"
)
