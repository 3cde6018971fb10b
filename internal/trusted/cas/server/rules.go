package server

import "cupel.dev/cupel/api/problem"

// Rules that this package raises.
const (
	// ruleBodyTooLarge: a request is larger than the CAS reads.
	// Mend: send less: a session's text is bounded.
	ruleBodyTooLarge problem.Rule = "body_too_large"

	// ruleChannelBinding: the connection has no channel binding by which evidence could be bound to it.
	// Mend: connect with TLS 1.3 and end the connection nowhere in between.
	ruleChannelBinding problem.Rule = "channel_binding"

	// ruleGrantID: what names a grant is no id.
	// Mend: list them: cupel session grants SESSION.
	ruleGrantID problem.Rule = "grant_id"

	// ruleJSON: a request is not JSON, or not of the form that is asked for.
	// Mend: send it as the CAS's OpenAPI document describes it.
	ruleJSON problem.Rule = "json"

	// ruleMethod: there is something at the path, and not for this HTTP method.
	// Mend: use a method that is named.
	ruleMethod problem.Rule = "method"

	// ruleNoEvidence: the CAS was started without a platform that attests it.
	// Mend: start it through cupeld, or on a platform with a TEE.
	ruleNoEvidence problem.Rule = "no_evidence"

	// ruleNonce: a nonce is not of its form.
	// Mend: give 64 hex digits that were never used before.
	ruleNonce problem.Rule = "nonce"

	// ruleQuery: a number in the query is none, or too large.
	// Mend: give a number up to the one that is named.
	ruleQuery problem.Rule = "query"

	// ruleValueReference: what names a public value is not of its form.
	// Mend: write session=NAME[,secret=NAME][,session_hash=HEX].
	ruleValueReference problem.Rule = "value_reference"
)
