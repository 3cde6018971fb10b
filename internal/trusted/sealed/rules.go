package sealed

import (
	"cupel.dev/cupel/api/problem"
)

// Rules by which a snapshot is refused.
const (
	// RuleFormat: the bytes are no snapshot, or one of an unknown version.
	// Mend: start the service with the launcher that wrote the volume, or with a newer one; else have the operator put back the volume's newest snapshot as it was stored.
	RuleFormat problem.Rule = "volume_format"

	// RuleSwapped: it is another volume's snapshot.
	// Mend: have the operator put back the volume's newest snapshot as it was stored.
	RuleSwapped problem.Rule = "volume_swapped"

	// RuleRolledBack: it is of an older generation than the CAS knows.
	// Mend: have the operator put back the volume's newest snapshot as it was stored.
	RuleRolledBack problem.Rule = "volume_rolled_back"

	// RuleAhead: it is of a generation whose tag never reached the CAS.
	// Mend: have the operator put back the volume's newest snapshot as it was stored.
	RuleAhead problem.Rule = "volume_ahead"

	// RuleForked: it is of the right generation, but another state of it than the one that the CAS keeps.
	// Mend: have the operator put back the volume's newest snapshot as it was stored.
	RuleForked problem.Rule = "volume_forked"

	// RuleKey: it is encrypted under another key than the volume's.
	// Mend: have the operator put back the volume's newest snapshot as it was stored.
	RuleKey problem.Rule = "volume_key"

	// RuleTruncated: it ends too early.
	// Mend: have the operator put back the volume's newest snapshot as it was stored.
	RuleTruncated problem.Rule = "volume_truncated"

	// RuleTampered: a byte of it is not what was written.
	// Mend: have the operator put back the volume's newest snapshot as it was stored.
	RuleTampered problem.Rule = "volume_tampered"

	// ruleVolumeRead: the storage failed while the snapshot was read.
	// Mend: look at the disk of the node, then start the instance again.
	ruleVolumeRead problem.Rule = "volume_read"
)
