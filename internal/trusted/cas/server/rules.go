package server

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleBodyTooLarge   problem.Rule = "body_too_large"
	ruleChannelBinding problem.Rule = "channel_binding"
	ruleGrantID        problem.Rule = "grant_id"
	ruleJSON           problem.Rule = "json"
	ruleMethod         problem.Rule = "method"
	ruleNoEvidence     problem.Rule = "no_evidence"
	ruleNonce          problem.Rule = "nonce"
	ruleQuery          problem.Rule = "query"
	ruleValueReference problem.Rule = "value_reference"
)
