package managerdb

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// ruleSchemaNewer: the manager's state was written by a newer cupeld.
	// Mend: run the cupeld that wrote it, or a newer one.
	ruleSchemaNewer problem.Rule = "schema_newer"
)
