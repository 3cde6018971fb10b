package appraise

import (
	"cupel.dev/cupel/api/problem"
)

// Rules of a policy, and of the findings that it leads to.
const (
	// rulePolicy: the policy leaves out what must be expected, or contradicts itself.
	// Mend: say what is expected: what is absent is never taken as accepted.
	rulePolicy problem.Rule = "policy"

	// ruleSimulation: the evidence comes from a simulated platform, or from another one than the policy tolerates.
	// Mend: run it on hardware, or tolerate this simulated platform on purpose, by the digest of its root.
	ruleSimulation problem.Rule = "simulation"

	// ruleDebug: the code runs in debug mode: whoever runs it can read its memory.
	// Mend: run a production build, or tolerate debug-mode on purpose.
	ruleDebug problem.Rule = "debug"

	// ruleSigner: the code was signed by somebody else than expected.
	// Mend: run the code that is expected, or add this signer to the expectation if you can vouch for it.
	ruleSigner problem.Rule = "signer"

	// ruleProductID: the code is another product of its signer.
	// Mend: run the code that is expected, or add this product to the expectation if you can vouch for it.
	ruleProductID problem.Rule = "product_id"

	// ruleSVN: the code's security version is not one that is expected.
	// Mend: run a version that is expected, or widen the expectation if you can vouch for this one.
	ruleSVN problem.Rule = "svn"

	// ruleReportData: the evidence was made for another connection.
	// Mend: make the evidence for this very connection: it may have been replayed, or relayed from elsewhere.
	ruleReportData problem.Rule = "report_data"

	// ruleTCBStatus: the platform's status is neither up to date nor tolerated.
	// Mend: update the platform, or tolerate its status on purpose.
	ruleTCBStatus problem.Rule = "tcb_status"

	// ruleAdvisories: the platform has open security advisories that the policy does not ignore.
	// Mend: update the platform, or ignore the advisories on purpose.
	ruleAdvisories problem.Rule = "advisories"
)
