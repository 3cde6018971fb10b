package appraise

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleAdvisories problem.Rule = "advisories"
	ruleDebug      problem.Rule = "debug"
	rulePolicy     problem.Rule = "policy"
	ruleProductID  problem.Rule = "product_id"
	ruleReportData problem.Rule = "report_data"
	ruleSigner     problem.Rule = "signer"
	ruleSimulation problem.Rule = "simulation"
	ruleSVN        problem.Rule = "svn"
	ruleTCBStatus  problem.Rule = "tcb_status"
)
