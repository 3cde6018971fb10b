package reference

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleVouchedFile problem.Rule = "vouched_file"
)
