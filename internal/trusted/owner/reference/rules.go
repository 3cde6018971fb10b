package reference

import "cupel.dev/cupel/api/problem"

// Rules that this package raises.
const (
	// ruleVouchedFile: the file of the measurements that you vouch for is damaged, or of another version.
	// Mend: repair or remove it, then measure again: cupel runtime measure.
	ruleVouchedFile problem.Rule = "vouched_file"
)
