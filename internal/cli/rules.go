package cli

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	// ruleAppAddress: where the app listens is not known here. Mend: give --address HOST:PORT, or --state DIR of this machine's manager, or --provider URL of another's.
	ruleAppAddress problem.Rule = "app_address"

	// ruleAppCA: the session publishes no certificate of a CA of its own. Mend: make the session from a template of 'cupel template', then update it and deploy again.
	ruleAppCA problem.Rule = "app_ca"

	// ruleAppCertificate: what answers at the app's address shows a certificate that isn't the session's, or isn't for the name. Mend: don't use the app there, unless it brings a certificate of its own and is meant to (--plain); give another --name where only the name differs.
	ruleAppCertificate problem.Rule = "app_certificate"

	// ruleAppInstance: an instance answers at the app's address that isn't one of this deployment, of this app, or that the CAS knows to run. Mend: don't use the app there; ask the operator, and see 'cupel ps' and 'cupel verify APP'.
	ruleAppInstance problem.Rule = "app_instance"

	// ruleAppPlain: the app answers without TLS: it works, and its users can't tell it from an impostor. Mend: let the app serve TLS with /run/cupel/tls/cert.pem and key.pem; if it is meant so, say --plain.
	ruleAppPlain problem.Rule = "app_plain"

	// ruleAppPort: the app is at another public port than the deployment asked for, by the manager's word. Mend: deploy again, and ask the operator.
	ruleAppPort problem.Rule = "app_port"

	// ruleAppSession: the manager says that the app runs another session than the owner's side knows. Mend: don't use what the manager leads to; say which session is meant with --session, and where its app answers with --address.
	ruleAppSession problem.Rule = "app_session"

	// ruleAppUnreachable: nothing answers at the app's address, or the app has no port yet. Mend: see 'cupel ps', and whether a firewall is between.
	ruleAppUnreachable problem.Rule = "app_unreachable"

	// ruleCASInstances: where the session's CAS listens for instances is not known. Mend: give --cas-instances HOST:PORT.
	ruleCASInstances problem.Rule = "cas_instances"

	// ruleCode: the code of a grant can't be read from standard input. Mend: pipe the code in, or put it into a file and give --code @FILE.
	ruleCode problem.Rule = "code"

	// ruleCodeArgument: the code of a grant stands on the command line itself, where others can read it. Mend: put the code into a file (--code @FILE), or pipe it in (--code -).
	ruleCodeArgument problem.Rule = "code_argument"

	// ruleCommit: a running instance doesn't have the commit that --commit demands, or --commit names none. Mend: give at least 16 hex digits, or VOLUME= and these; where another commit runs, deploy the app again.
	ruleCommit problem.Rule = "commit"

	// ruleDefinitionShadowed: a definition in the current folder says something else than the one of that name that is built into cupel. Mend: read it, and give it with --definition if you vouch for it; else run the command in another folder.
	ruleDefinitionShadowed problem.Rule = "definition_shadowed"

	// ruleDeployFailed: the manager says that the deployment failed, and not why. Mend: see 'cupel ps' and 'cupel events', and ask the operator.
	ruleDeployFailed problem.Rule = "deploy_failed"

	// ruleDeploySuperseded: another deployment of the app began meanwhile. Mend: see with 'cupel ps' what runs now, and who else deploys with your key; deploy again where it should be this one.
	ruleDeploySuperseded problem.Rule = "deploy_superseded"

	// ruleDeployTimeout: the deployment was not done, or not seen to begin, within --timeout. Mend: see with 'cupel ps' what runs now, and give more time with --timeout.
	ruleDeployTimeout problem.Rule = "deploy_timeout"

	// ruleFile: a file that a flag or an argument names can't be read, or is too large. Mend: name a file that is there and that you may read.
	ruleFile problem.Rule = "file"

	// ruleGrantUnclaimed: the manager says that the deployment is done, and has not claimed the grant that was made for it. Mend: deploy again, and ask the operator.
	ruleGrantUnclaimed problem.Rule = "grant_unclaimed"

	// ruleGrantsTwo: an app has more than one grant, and nothing is known of a deployment under way. Mend: see who has them with 'cupel session grants', and end the one that you don't know with --withdraw.
	ruleGrantsTwo problem.Rule = "grants_two"

	// ruleInstanceClaims: the CAS released to an instance whose claims the session excludes. Mend: don't use the app, and don't trust this CAS.
	ruleInstanceClaims problem.Rule = "instance_claims"

	// ruleInstanceNotAttested: an instance serves by the manager's word, and the CAS doesn't list it as attested and running. Mend: don't use the app; ask the operator, and see 'cupel verify APP'.
	ruleInstanceNotAttested problem.Rule = "instance_not_attested"

	// ruleInstanceUngranted: an instance runs under no grant, and the session asks for one. Mend: if it ran before there were grants, deploy the app once.
	ruleInstanceUngranted problem.Rule = "instance_ungranted"

	// ruleLauncher: the file that --launcher names is no program. Mend: name cupel-init of the operator's release with --launcher, or give its SHA-256.
	ruleLauncher problem.Rule = "launcher"

	// ruleLockOld: the lock's security and update indices are older than --max-age. Mend: ask the operator for a lock of today's packages; give a longer --max-age only if you accept packages without the fixes since.
	ruleLockOld problem.Rule = "lock_old"

	// ruleNoAnswer: a question to the person at the terminal was not answered. Mend: give the value with a flag, or answer the question.
	ruleNoAnswer problem.Rule = "no_answer"

	// ruleNoExpectation: this build of cupel doesn't know which CAS to expect. Mend: say what you expect with --mrenclave or --mrsigner, or use a cupel from 'make build'.
	ruleNoExpectation problem.Rule = "no_expectation"

	// ruleNoHome: nothing says where the owner's folder, with the private key, is. Mend: set HOME, or name the folder with --config or CUPEL_CONFIG.
	ruleNoHome problem.Rule = "no_home"

	// ruleOperatorKey: the operator's key or certificate in the state folder is damaged. Mend: give --as-owner, or run 'cupel up' again.
	ruleOperatorKey problem.Rule = "operator_key"

	// ruleOthersHome: root would write into another user's home, and that user could then read nothing of it. Mend: run it as that user, without sudo, or name root's own folder with --config.
	ruleOthersHome problem.Rule = "others_home"

	// ruleOutput: the answer can't be written to standard output. Mend: make room where it goes; what the command did is done.
	ruleOutput problem.Rule = "output"

	// ruleProgramMissing: another program of this release is neither beside this one nor in PATH. Mend: build it (make build), or install it beside cupel.
	ruleProgramMissing problem.Rule = "program_missing"

	// ruleProvider: a provider is not known here, or --provider is no key. Mend: see 'cupel provider list'; for a key ask the operator, to whom 'cupel info' shows it.
	ruleProvider problem.Rule = "provider"

	// ruleProviderAddress: the provider's address can't be one of a manager. Mend: give --provider, or CUPEL_PROVIDER, as https://HOST[:PORT] of the operator's manager.
	ruleProviderAddress problem.Rule = "provider_address"

	// ruleProviderCertificate: the provider shows another certificate than the one that was kept. Mend: ask the operator, who sees it with 'cupel info'; only if they say that it changed, run 'cupel provider forget ADDRESS'.
	ruleProviderCertificate problem.Rule = "provider_certificate"

	// ruleProviderKey: the provider claims grants with another key than the one that was kept, or names none. Mend: ask the operator, who sees it with 'cupel info'; only if they say that it changed, run 'cupel provider forget ADDRESS'.
	ruleProviderKey problem.Rule = "provider_key"

	// rulePullNotAttested: the CAS saw no pull of the session end well since the deployment began. Mend: don't use the app, since older code may run; deploy again, and ask the operator.
	rulePullNotAttested problem.Rule = "pull_not_attested"

	// ruleRef: the session pins another ref than --ref says, or what it pins is not known here. Mend: update the session with --ref and deploy again, or leave --ref out.
	ruleRef problem.Rule = "ref"

	// ruleRmTimeout: what was removed is not gone within --timeout, and its removal goes on. Mend: see 'cupel events'.
	ruleRmTimeout problem.Rule = "rm_timeout"

	// ruleRmUnconfirmed: an app is gone by the manager's word, and whether its grant has ended is not known, or it has not. Mend: run it again when the CAS answers, or end what is left with 'cupel session grants NAME --withdraw GRANT'.
	ruleRmUnconfirmed problem.Rule = "rm_unconfirmed"

	// ruleRuntimeSources: the operator has an image of the runtime, and not what it was built from. Mend: let the operator build it anew with 'cupel runtime build NAME'.
	ruleRuntimeSources problem.Rule = "runtime_sources"

	// ruleRuntimeUnmeasured: the measurement of the runtime is not known here, and no operator says one. Mend: rebuild and measure it with 'cupel runtime measure NAME --lock FILE', or let the operator build it.
	ruleRuntimeUnmeasured problem.Rule = "runtime_unmeasured"

	// ruleSecretArgument: a secret of the app's own stands on the command line itself, where others can read it. Mend: put it into a file (NAME=@FILE), or give NAME alone to be asked for it.
	ruleSecretArgument problem.Rule = "secret_argument"

	// ruleSecretEmpty: a secret of the app's own has no value, as where a variable of the shell isn't set. Mend: give it one; if it is meant to be empty, take it from /dev/null.
	ruleSecretEmpty problem.Rule = "secret_empty"

	// ruleSimulationUnnamed: an instance runs on a simulated platform, and the session tolerates simulation without naming its root. Mend: take a new template with 'cupel template --simulation', update the session and deploy.
	ruleSimulationUnnamed problem.Rule = "simulation_unnamed"

	// ruleSourceUnnamed: nothing says where the bytes of a lock are, and no operator runs on this machine. Mend: give --provider URL, or --from with a folder, oci:HOST:PORT or mirror.
	ruleSourceUnnamed problem.Rule = "source_unnamed"
)
