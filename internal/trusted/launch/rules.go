package launch

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleImageConfig   problem.Rule = "image_config"
	ruleLaunchProfile problem.Rule = "launch_profile"
	ruleLaunchSpec    problem.Rule = "launch_spec"
	ruleSwapLimit     problem.Rule = "swap_limit"
)
