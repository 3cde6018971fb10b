package managerdb

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleSchemaNewer problem.Rule = "schema_newer"
)
