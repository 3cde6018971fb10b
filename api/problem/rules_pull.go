package problem

import "strings"

// Rules of how a pull ended. The manager raises them by the exit code of the puller's
// program, and the command line shows the puller's own words beside them.
const (
	// RulePull: the pull ended with a code that the manager doesn't know. Mend: read the puller's output with 'cupel logs APP --puller'.
	RulePull Rule = "pull"

	// RulePullBranch: the repository is empty, or its default branch isn't there. Mend: push a commit, or name a branch with --ref, then update the session and deploy again.
	RulePullBranch Rule = "pull_branch"

	// RulePullBroken: the connection with the git server broke off at each try. Mend: see what the server, or a firewall or proxy on the way to it, says of that, then deploy again.
	RulePullBroken Rule = "pull_broken"

	// RulePullBusy: the git server answers that it can't serve now. Mend: see whether the server is up and limits how often it may be asked, then deploy again.
	RulePullBusy Rule = "pull_busy"

	// RulePullCertificate: the git server's certificate doesn't verify with the authorities that the session believes. Mend: give the session the authority that signed it as GIT_CA, or correct or leave out the one that it has, then update the session and deploy again.
	RulePullCertificate Rule = "pull_certificate"

	// RulePullCommand: the repository has no file or folder that the session's command names. Mend: make --command name one of the repository, under /home/client-app/repo.
	RulePullCommand Rule = "pull_command"

	// RulePullContent: the repository names content that can't be had, such as a submodule or a file in Git LFS elsewhere. Mend: have it on the repository's own server, where the token may read it, then deploy again.
	RulePullContent Rule = "pull_content"

	// RulePullFailed: git ended with an error that the puller has no words of its own for. Mend: try 'git clone' of the same address with the same token, mend what it says, then deploy again.
	RulePullFailed Rule = "pull_failed"

	// RulePullInput: the session's repository, token or ref can't be used. Mend: give GIT_REPO as an https:// address and ACCESS_TOKEN, then update the session and deploy again.
	RulePullInput Rule = "pull_input"

	// RulePullProxy: the proxy that the session names doesn't lead to the git server. Mend: check --proxy and what the proxy allows, then update the session and deploy again.
	RulePullProxy Rule = "pull_proxy"

	// RulePullRedirect: the git server redirects elsewhere, where the token doesn't follow. Mend: give the final address as GIT_REPO, with a token of the server there, then update the session and deploy again.
	RulePullRedirect Rule = "pull_redirect"

	// RulePullRef: the repository has no such branch, tag or commit as the session names. Mend: check --ref, then update the session and deploy again.
	RulePullRef Rule = "pull_ref"

	// RulePullRepository: the git server has no such repository, or the token may not see it. Mend: check GIT_REPO and the token's rights, then update the session and deploy again.
	RulePullRepository Rule = "pull_repository"

	// RulePullSilent: the git server took the connection and doesn't answer. Mend: see what the server, or a firewall or proxy on the way to it, does ('cupel check --to HOST:PORT', by the operator), then deploy again.
	RulePullSilent Rule = "pull_silent"

	// RulePullSpace: the repository doesn't fit into the instance's memory beside its old state. Mend: deploy with more --memory.
	RulePullSpace Rule = "pull_space"

	// RulePullStopped: the pull was told to stop, and nothing of it is kept. Mend: deploy again.
	RulePullStopped Rule = "pull_stopped"

	// RulePullTLS: no TLS connection with the git server can be made. Mend: give GIT_REPO the port where the server speaks https, then update the session and deploy again.
	RulePullTLS Rule = "pull_tls"

	// RulePullToken: the git server refuses the token. Mend: update the session with an ACCESS_TOKEN that may read the repository, and with --git-user where the server wants a name beside it, then deploy again.
	RulePullToken Rule = "pull_token"

	// RulePullUnreachable: the git server can't be reached from inside the instance. Mend: check the address in GIT_REPO, and that instances may reach that network ('cupel check --to HOST:PORT', by the operator), then deploy again.
	RulePullUnreachable Rule = "pull_unreachable"
)

// OfPull reports whether a rule says how a pull ended, by its name: a manager of another
// release may have rules that aren't listed here.
func OfPull(r Rule) bool { return strings.HasPrefix(string(r), string(RulePull)) }
