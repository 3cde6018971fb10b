package build

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleMirrorAddress     problem.Rule = "mirror_address"
	ruleMirrorUnreachable problem.Rule = "mirror_unreachable"
)
