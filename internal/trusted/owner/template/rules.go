package template

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleAcceptMeasurement problem.Rule = "accept_measurement"
	ruleAccessToken       problem.Rule = "access_token"
	ruleGitProxy          problem.Rule = "git_proxy"
	ruleGitRepository     problem.Rule = "git_repository"
	ruleTemplateDiffers   problem.Rule = "template_differs"
)
