package manager

import "cupel.dev/cupel/internal/trusted/problem"

// Exit codes of the puller's program (runtimes/puller.yml): besides its output,
// all that the operator learns about why a pull ended.
const (
	pullInput       = 64
	pullToken       = 65
	pullRepository  = 66
	pullCertificate = 67
	pullUnreachable = 68
	pullRedirect    = 69
	pullCommand     = 70
	pullSpace       = 71
	pullStopped     = 75
)

// pullProblem explains how a pull ended.
func pullProblem(code int) *problem.Error {
	switch code {
	case pullInput:
		return problem.New(problem.Invalid, "pull_input", "the session's repository, token or ref can't be used; the puller's output says which").
			Fix("give GIT_REPO as an https:// address and ACCESS_TOKEN, update the session, then deploy again")
	case pullToken:
		return problem.New(problem.Unauthenticated, "pull_token", "the git server refuses the token").
			Fix("update the session with an ACCESS_TOKEN that may read the repository, then deploy again")
	case pullRepository:
		return problem.New(problem.NotFound, "pull_repository", "the git server has no such repository or ref, or the token may not see it").
			Fix("check GIT_REPO, the --ref that the session pins, and the token's rights; update the session, then deploy again")
	case pullCertificate:
		return problem.New(problem.Denied, "pull_certificate", "the git server's certificate doesn't verify").
			Fix("give the authority that signed it to the session with -e GIT_CA=@ca.pem, or check the one that you gave: with one, no other is believed")
	case pullUnreachable:
		return problem.New(problem.Unavailable, "pull_unreachable", "the git server can't be reached from inside the instance").
			Fix("check the address in GIT_REPO (this machine is host.cupel.internal there, not localhost), and that instances may reach that network")
	case pullRedirect:
		return problem.New(problem.Invalid, "pull_redirect", "the git server redirects elsewhere, where the token doesn't follow").
			Fix("give the final address as GIT_REPO, update the session, then deploy again")
	case pullCommand:
		return problem.New(problem.NotFound, "pull_command", "the repository has no file that the session's command starts").
			Fix("make --command name a file of the repository, under /home/client-app/repo")
	case pullSpace:
		return problem.New(problem.Invalid, "pull_space", "the repository doesn't fit into the instance's memory beside its old state").
			Fix("deploy with more --memory: for a while it holds the old state and the new")
	case pullStopped:
		return problem.New(problem.Unavailable, "pull_stopped", "the pull was told to stop; nothing of it is kept").
			Fix("deploy again")
	}
	return problem.New(problem.Internal, "pull", "the pull ended with code %d", code).
		Fix("read 'cupel logs --puller APP'")
}
