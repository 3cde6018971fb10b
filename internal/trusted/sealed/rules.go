package sealed

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleVolumeRead problem.Rule = "volume_read"
)
