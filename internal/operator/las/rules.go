package las

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleLASLaunch  problem.Rule = "las_launch"
	ruleLASPath    problem.Rule = "las_path"
	ruleLASPeer    problem.Rule = "las_peer"
	ruleLASRate    problem.Rule = "las_rate"
	ruleLASRequest problem.Rule = "las_request"
)
