package dcap

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleCertificationData problem.Rule = "certification_data"
	rulePCKCARevoked      problem.Rule = "pck_ca_revoked"
	rulePCKChain          problem.Rule = "pck_chain"
	rulePCKCRL            problem.Rule = "pck_crl"
	rulePCKRevoked        problem.Rule = "pck_revoked"
	ruleQELevel           problem.Rule = "qe_level"
	ruleQEReportData      problem.Rule = "qe_report_data"
	ruleQEReportSignature problem.Rule = "qe_report_signature"
	ruleQEVendor          problem.Rule = "qe_vendor"
	ruleQuoteFormat       problem.Rule = "quote_format"
	ruleQuoteSignature    problem.Rule = "quote_signature"
	ruleQuoteVersion      problem.Rule = "quote_version"
	ruleRootCRL           problem.Rule = "root_crl"
	ruleTCBInfoPlatform   problem.Rule = "tcb_info_platform"
	ruleTCBLevel          problem.Rule = "tcb_level"
	ruleUnknownRoot       problem.Rule = "unknown_root"
)
