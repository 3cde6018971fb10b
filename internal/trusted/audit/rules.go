package audit

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleAuditHeadSignature problem.Rule = "audit_head_signature"
	ruleAuditLogGap        problem.Rule = "audit_log_gap"
)
