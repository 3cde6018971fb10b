package manager

import (
	"cupel.dev/cupel/api/problem"
)

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
	pullOther       = 72
	pullContent     = 73
	pullProxy       = 74
	pullStopped     = 75
	pullRef         = 76
	pullBranch      = 77
	pullAuthority   = 78
	pullSilent      = 79
	pullBusy        = 80
	pullTLS         = 81
	pullBroken      = 82
)

// withWhoToAsk adds to the end of a pull that got no answer that this machine is known
// to have something in the way. What it is, is the operator's: anybody can have a pull
// end so.
func (p *planner) withWhoToAsk(e *problem.Error) *problem.Error {
	if e == nil || p.inTheWay == nil || e.Rule != problem.RulePullSilent && e.Rule != problem.RulePullUnreachable || !p.inTheWay() {
		return e
	}

	e.Actual += "; the operator's machine is known to have something in the way of instances, which may be why"
	e.Mend = "ask the operator, whom 'cupel check' shows what it is; or " + e.Mend
	return e
}

// pullProblem explains how a pull ended.
func pullProblem(code int) *problem.Error {
	switch code {
	case pullInput:
		return problem.New(problem.Invalid, problem.RulePullInput, "the session's repository, token or ref can't be used; the puller's output says which").
			Fix("give GIT_REPO as an https:// address and ACCESS_TOKEN, update the session, then deploy again")
	case pullToken:
		return problem.New(problem.Unauthenticated, problem.RulePullToken, "the git server refuses the token").
			Fix("update the session with an ACCESS_TOKEN that may read the repository, and with --git-user where the server wants a user name beside it; where the puller's output names another way to log in, give a GIT_REPO that takes tokens; then deploy again")
	case pullRepository:
		return problem.New(problem.NotFound, problem.RulePullRepository, "the git server has no such repository, or the token may not see it").
			Fix("check GIT_REPO and the token's rights; update the session, then deploy again")
	case pullRef:
		return problem.New(problem.NotFound, problem.RulePullRef, "the repository has no such branch, tag or commit as the session names").
			Fix("check the --ref that the session was made with; update the session, then deploy again")
	case pullBranch:
		return problem.New(problem.NotFound, problem.RulePullBranch, "the repository is empty, or its default branch isn't there").
			Fix("push a commit, or name a branch with --ref and update the session; then deploy again")
	case pullCertificate:
		return problem.New(problem.Denied, problem.RulePullCertificate, "the git server's certificate doesn't verify with the public authorities; the puller's output says what is known of why").
			Want("a certificate of such an authority, for the host in GIT_REPO, in its time, sent with those between").
			Fix("give a private authority that signed it to the session with -e GIT_CA=@ca.pem, or another GIT_REPO, and update the session; have the server mended otherwise; then deploy again")
	case pullAuthority:
		return problem.New(problem.Denied, problem.RulePullCertificate, "the git server's certificate doesn't verify with the authority that the session gives as GIT_CA").
			Want("a certificate of that authority, for the host in GIT_REPO, in its time, sent with those between; with a GIT_CA no public authority is believed").
			Fix("check which authority signed it, and GIT_REPO's host; correct GIT_CA, or leave it out for a public one; update the session, then deploy again")
	case pullUnreachable:
		return problem.New(problem.Unavailable, problem.RulePullUnreachable, "the git server can't be reached from inside the instance").
			Fix("check the address in GIT_REPO (this machine is host.cupel.internal there, not localhost), and that instances may reach that network ('cupel check --to HOST:PORT', by the operator, tells); through a proxy alone: --proxy")
	case pullSilent:
		return problem.New(problem.Unavailable, problem.RulePullSilent, "the git server doesn't answer").
			Want("the beginning of an answer within 45 seconds, and then no silence of more than 3 minutes while it makes a pack").
			Fix("see what the server, or a firewall or proxy on the way to it, does: 'cupel check --to HOST:PORT', by the operator, names a rule of this machine that is in the way; then deploy again")
	case pullBusy:
		return problem.New(problem.Unavailable, problem.RulePullBusy, "the git server answers that it can't serve now; the puller's output says how").
			Want("another answer than 429 or 5xx, at one of four requests, the later ones when it wants them (Retry-After) if that is within a minute").
			Fix("see whether the server is up, and whether it limits how often it may be asked; then deploy again")
	case pullTLS:
		return problem.New(problem.Invalid, problem.RulePullTLS, "no TLS connection with the git server can be made; the puller's output says what is known of why").
			Want("a server with TLS 1.2 or 1.3 at that port, which wants no certificate of its clients").
			Fix("give GIT_REPO the port where the server speaks https; update the session, then deploy again")
	case pullBroken:
		return problem.New(problem.Unavailable, problem.RulePullBroken, "the connection with the git server broke off, at each try; the puller's output says whether at the first request").
			Fix("see what the server, or a firewall or proxy on the way to it, says of that: some end what is large or takes long, and a server that wants a certificate of its clients may end it at the first request; then deploy again")
	case pullProxy:
		return problem.New(problem.Invalid, problem.RulePullProxy, "the proxy that the session names doesn't lead to the git server; the puller's output says why").
			Fix("check the address, user name and password in --proxy, and what the proxy allows; with an https:// address, put its private authority into GIT_CA too; update the session, then deploy again")
	case pullRedirect:
		return problem.New(problem.Invalid, problem.RulePullRedirect, "the git server redirects elsewhere, where the token doesn't follow; the puller's output says where to").
			Want("no redirect, or at most five to other paths of the same server that end in /info/refs?service=git-upload-pack").
			Fix("give the final address as GIT_REPO, with a token of the server there, or another ACCESS_TOKEN where it redirects to a page to log in at; update the session, then deploy again")
	case pullContent:
		return problem.New(problem.Invalid, problem.RulePullContent, "the repository names content that can't be had: a submodule, a file in Git LFS, or a text in another encoding; the puller's output says which").
			Fix("have submodules and LFS files on the repository's own server, where the token may read them; push that, then deploy again")
	case pullCommand:
		return problem.New(problem.NotFound, problem.RulePullCommand, "the repository has no file or folder that the session's command names").
			Fix("make --command name one of the repository, under /home/client-app/repo")
	case pullSpace:
		return problem.New(problem.Invalid, problem.RulePullSpace, "the repository doesn't fit into the instance's memory beside its old state").
			Fix("deploy with more --memory: for a while it holds the old state and the new")
	case pullOther:
		return problem.New(problem.Invalid, problem.RulePullFailed, "git ended with an error that the puller has no words of its own for; its output has git's").
			Fix("try 'git clone' of the same address with the same token; mend what it says, then deploy again")
	case pullStopped:
		return problem.New(problem.Unavailable, problem.RulePullStopped, "the pull was told to stop; nothing of it is kept").
			Fix("deploy again")
	}
	return problem.New(problem.Internal, problem.RulePull, "the pull ended with code %d", code).
		Fix("read 'cupel logs APP --puller'")
}
