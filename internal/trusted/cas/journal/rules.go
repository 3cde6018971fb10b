package journal

import "cupel.dev/cupel/api/problem"

// Rules that this package raises.
const (
	// ruleCancelled: the caller went away before its change was queued.
	// Mend: ask again.
	ruleCancelled problem.Rule = "cancelled"

	// ruleStopping: the CAS is stopping and takes no changes any more.
	// Mend: try again when it runs.
	ruleStopping problem.Rule = "stopping"

	// ruleStoreChanged: the store's log does not end where this CAS left it, so that something else wrote to it.
	// Mend: make sure that one CAS alone uses this state, then restart it.
	ruleStoreChanged problem.Rule = "store_changed"

	// ruleRolledBack: a row is not the one that the audit log names: it was put back, changed or removed.
	// Mend: restore the whole state folder from its newest backup.
	ruleRolledBack problem.Rule = "row_rolled_back"
)
