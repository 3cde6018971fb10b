package casdb

import "cupel.dev/cupel/api/problem"

// Rules that this package raises.
const (
	// ruleStateForeign: what lies at the place of the CAS's database is another program's.
	// Mend: give the CAS a state folder of its own.
	ruleStateForeign problem.Rule = "state_foreign"

	// ruleStoreClosed: the database was closed while something was asked of it.
	// Mend: try again when the CAS runs.
	ruleStoreClosed problem.Rule = "store_closed"
)
