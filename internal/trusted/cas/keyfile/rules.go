package keyfile

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleRowSealed            problem.Rule = "row_sealed"
	ruleSealingKey           problem.Rule = "sealing_key"
	ruleSealingKeyFile       problem.Rule = "sealing_key_file"
	ruleSealingKeyForm       problem.Rule = "sealing_key_form"
	ruleSealingKeyMissing    problem.Rule = "sealing_key_missing"
	ruleSealingKeyPermission problem.Rule = "sealing_key_permission"
)
