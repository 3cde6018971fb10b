package evidence

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleAppraisal problem.Rule = "appraisal"
)
