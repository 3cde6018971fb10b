package audit

import "cupel.dev/cupel/api/problem"

// Rules that this package raises.
const (
	// ruleAuditHeadSignature: the signed end of the log isn't signed by the CAS's identity key.
	// Mend: attest the CAS again; if its identity is the pinned one, its log was tampered with.
	ruleAuditHeadSignature problem.Rule = "audit_head_signature"

	// ruleAuditLogGap: an entry of the log doesn't follow the one before it.
	// Mend: don't use this CAS: entries of its log are missing or repeated.
	ruleAuditLogGap problem.Rule = "audit_log_gap"
)
