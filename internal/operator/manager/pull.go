package manager

import "cupel.dev/cupel/internal/trusted/problem"

// Exit codes of the puller's program (runtimes/puller.yml): the only thing that
// the operator learns about why a pull ended.
const (
	pullUsage      = 64 // the session left something out
	pullScheme     = 65 // the repository's address isn't https://
	pullToken      = 66 // the git server refused the token
	pullRepository = 67 // no such repository
	pullNetwork    = 68 // the git server can't be reached
	pullTLS        = 69 // its certificate doesn't verify
	pullRef        = 70 // no such branch, tag or commit
	pullExpect     = 71 // the command's file isn't in the repository
	pullSpace      = 72 // the repository is larger than the memory limit
)

// pullProblem explains how a pull ended.
func pullProblem(code int) *problem.Error {
	switch code {
	case pullUsage:
		return problem.New(problem.Invalid, "pull_input", "the session gives the puller no repository").
			Fix("create the session with -e GIT_REPO=…")
	case pullScheme:
		return problem.New(problem.Invalid, "pull_scheme", "the repository's address isn't https://").
			Fix("give an https:// address: a token never travels in the clear")
	case pullToken:
		return problem.New(problem.Unauthenticated, "pull_token", "the git server refused the token").
			Fix("update the session with a token that may read the repository (-e ACCESS_TOKEN=…), then deploy again")
	case pullRepository:
		return problem.New(problem.NotFound, "pull_repository", "the git server has no such repository, or shows it to nobody with this token").
			Fix("check GIT_REPO and the token's rights, update the session, then deploy again")
	case pullNetwork:
		return problem.New(problem.Unavailable, "pull_network", "the git server can't be reached from inside the instance").
			Fix("check the address in GIT_REPO, and that instances may reach that network")
	case pullTLS:
		return problem.New(problem.Denied, "pull_certificate", "the git server's certificate doesn't verify").
			Fix("give its certificate authority to the session with -e GIT_CA=@ca.pem")
	case pullRef:
		return problem.New(problem.NotFound, "pull_ref", "the repository has no such branch, tag or commit")
	case pullExpect:
		return problem.New(problem.NotFound, "pull_command", "the repository has no file that the session's command starts").
			Fix("make the template's --command name a file of the repository, under /home/client-app/repo")
	case pullSpace:
		return problem.New(problem.Invalid, "pull_space", "the repository doesn't fit into the instance's memory").
			Fix("deploy with more --memory")
	}
	return problem.New(problem.Internal, "pull", "the pull ended with code %d", code).
		Fix("read 'cupel logs --puller APP'")
}
