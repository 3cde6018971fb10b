package client

import "cupel.dev/cupel/api/problem"

// Rules that this package raises. Callers compare with those that are exported.
const (
	// RuleAway: no manager runs or answers there, or it answers too slowly or broke off.
	// Mend: start it (cupel up), or check the address and the network between here and there.
	RuleAway problem.Rule = "manager"

	// RuleCertificate: the manager shows no certificate, another than the expected one, or one that no public authority vouches for.
	// Mend: find out who listens there; name the certificate anew only if you know why it changed.
	RuleCertificate problem.Rule = "manager_certificate"

	// ruleAuditHead: a CAS's answer has no signed end of its audit log, or one that can't be read.
	// Mend: check the address: an app may listen there; if it is right, don't use this CAS.
	ruleAuditHead problem.Rule = "audit_head"

	// ruleCASAddress: the CAS's address is none, or what answers there is no CAS's API for owners.
	// Mend: give HOST[:PORT] of the owners' API; its port is 8081 unless its operator chose another.
	ruleCASAddress problem.Rule = "cas_address"

	// ruleCASAnswerLost: the CAS was asked for a change and its answer was lost, so that it may have been made.
	// Mend: look whether it was made, as the message says, before you ask again.
	ruleCASAnswerLost problem.Rule = "cas_answer_lost"

	// ruleManagerAddress: the manager's address is none, or what answers there is no manager.
	// Mend: give HOST:PORT of the manager; its port is 5000 unless its operator chose another.
	ruleManagerAddress problem.Rule = "manager_address"

	// ruleSessionSize: the text of a session is larger than a CAS takes.
	// Mend: give smaller values: what is large goes into the image, the repository or a volume.
	ruleSessionSize problem.Rule = "session_size"
)
