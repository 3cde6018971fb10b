package template

import "cupel.dev/cupel/api/problem"

// Rules that this package raises.
const (
	// ruleAcceptMeasurement: a value of --accept-measurement is no measurement, or for a service that the template hasn't got.
	// Mend: give HEX or SERVICE=HEX, with one of the template's services.
	ruleAcceptMeasurement problem.Rule = "accept_measurement"

	// ruleAccessToken: what was given as a git server's access token is no single line of text.
	// Mend: give the file that holds the token and nothing else: -e ACCESS_TOKEN=@FILE.
	ruleAccessToken problem.Rule = "access_token"

	// ruleGitProxy: the address of the proxy to the git server is none that an instance can use.
	// Mend: give --proxy with [http://][USER:PASSWORD@]HOST:PORT.
	ruleGitProxy problem.Rule = "git_proxy"

	// ruleGitRepository: the address of the repository is none that an instance can fetch from with a token.
	// Mend: give the address that git clone takes over HTTPS, without token and password.
	ruleGitRepository problem.Rule = "git_repository"

	// ruleTemplateDiffers: the operator's template is another than the owner's inputs make.
	// Mend: take the template of cupel template with the same inputs, or ask the operator why theirs differs.
	ruleTemplateDiffers problem.Rule = "template_differs"
)
