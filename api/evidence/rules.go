package evidence

import "cupel.dev/cupel/api/problem"

// Rules that this package raises.
const (
	// ruleAppraisal: a decision was to be acted on, and nothing was appraised.
	// Mend: report it: a program took a decision that nobody made for one.
	ruleAppraisal problem.Rule = "appraisal"
)
