package las

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// RuleProcess: an instance's first process isn't what its runtime spec says. Mend: look at what starts containers on
	// this machine: a wrapper or a hook of runc, an edited spec.
	RuleProcess problem.Rule = "las_process"

	// ruleLASLaunch: the local attestation service could not look at an instance, or not measure its launch. Mend: look at
	// the message for what failed; deploy the app again.
	ruleLASLaunch problem.Rule = "las_launch"

	// ruleLASPath: something else than evidence was asked of the local attestation service. Mend: send the request as the
	// launcher does, by POST to the one path there is.
	ruleLASPath problem.Rule = "las_path"

	// ruleLASPeer: another process than the instance's launcher asked for the instance's evidence. Mend: let the launcher
	// ask, which is the instance's first process: apps get their secrets from it.
	ruleLASPeer problem.Rule = "las_peer"

	// ruleLASRate: an instance, or the CAS, asked for evidence too often. Mend: wait a second.
	ruleLASRate problem.Rule = "las_rate"

	// ruleLASRequest: a request for evidence is not one that this service understands. Mend: use a launcher, or a CAS, and
	// a cupeld of the same release.
	ruleLASRequest problem.Rule = "las_request"
)
