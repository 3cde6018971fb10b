package client

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleAuditHead      problem.Rule = "audit_head"
	ruleCASAddress     problem.Rule = "cas_address"
	ruleCASAnswerLost  problem.Rule = "cas_answer_lost"
	ruleManagerAddress problem.Rule = "manager_address"
	ruleSessionSize    problem.Rule = "session_size"
)
