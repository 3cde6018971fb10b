package manager

import (
	"cupel.dev/cupel/api/problem"
)

// Rules about apps and what is asked of them.
const (
	// ruleApp: there is no such app of this key.
	// Mend: see the names with 'cupel ps', or use the key that has the app.
	ruleApp problem.Rule = "app"

	// ruleAppNameAmbiguous: several keys have, or had, an app of this name.
	// Mend: give the id of one ('cupel ps -o json', 'cupel events -o json').
	ruleAppNameAmbiguous problem.Rule = "app_name_ambiguous"

	// ruleAppNameTaken: another app of the same key has this name.
	// Mend: give another --name.
	ruleAppNameTaken problem.Rule = "app_name_taken"

	// ruleAppRemoving: the app is being removed.
	// Mend: try again in a moment.
	ruleAppRemoving problem.Rule = "app_removing"

	// ruleCertificate: the request came without a client certificate.
	// Mend: present the owner's certificate, as `cupel` does by itself.
	ruleCertificate problem.Rule = "certificate"

	// ruleDeadline: a deployment's time was over before it was done.
	// Mend: see what held it with 'cupel events APP', then deploy once more.
	ruleDeadline problem.Rule = "deadline"

	// ruleFollowers: too many logs and events are followed at once.
	// Mend: end a 'cupel logs -f' or 'cupel events -f', or leave -f out.
	ruleFollowers problem.Rule = "followers"

	// ruleInstance: there is no such instance of this key.
	// Mend: see the ids with 'cupel ps'.
	ruleInstance problem.Rule = "instance"

	// ruleParameter: a parameter of the request's address can't be read.
	// Mend: give it in the form that the answer names.
	ruleParameter problem.Rule = "parameter"

	// ruleSession: the request names no session that can be.
	// Mend: give the name of the session that the app runs.
	ruleSession problem.Rule = "session"

	// ruleVersion: the request is of another version than this manager speaks.
	// Mend: use the cupel of the manager's version.
	ruleVersion problem.Rule = "version"

	// ruleWritesVolume: several instances are asked for of a service that writes a volume, which has one writer.
	// Mend: ask for --instances 1, or write update_policy: ephemeral in the session.
	ruleWritesVolume problem.Rule = "writes_volume"
)

// Rules about grants.
const (
	// ruleGrantApp: the grant's code is for an app of another name.
	// Mend: leave --name out, or let the owner make a code with that --name.
	ruleGrantApp problem.Rule = "grant_app"

	// ruleGrantInstances: the grant lets fewer instances, or other services, run than are asked for.
	// Mend: ask for fewer, or have the owner make a code for more: cupel session submit SESSION --instances N.
	ruleGrantInstances problem.Rule = "grant_instances"

	// ruleNotMaker: a code of a CAS that isn't the manager's own is handed in by another key than made it.
	// Mend: let the owner who made the code hand it in.
	ruleNotMaker problem.Rule = "not_maker"
)

// Rules about what a key may have here.
const (
	// ruleAppQuota: the operator's limits for keys (--app-quota) can't be read.
	// Mend: write them as in apps=20,memory=64G.
	ruleAppQuota problem.Rule = "app_quota"

	// ruleKeyNotListed: the operator lets listed keys deploy, and this one isn't.
	// Mend: ask the operator to add it to the file of cupel up --deploy-keys.
	ruleKeyNotListed problem.Rule = "key_not_listed"

	// ruleLowPort: the public port is below 1024, and the operator doesn't let apps have it.
	// Mend: give another --port, or ask the operator to allow it (--low-ports).
	ruleLowPort problem.Rule = "low_port"

	// ruleLowPorts: the list of --low-ports can't be read.
	// Mend: write it as in --low-ports 80,443.
	ruleLowPorts problem.Rule = "low_ports"

	// ruleMemoryOvercommitted: the instances of all apps may use more memory together than the machine has.
	// Mend: give --memory or --instances smaller, remove apps that nobody needs, or have the operator allow it.
	ruleMemoryOvercommitted problem.Rule = "memory_overcommitted"

	// ruleNotOperator: only the machine's operator may do this.
	// Mend: run it as the operator.
	ruleNotOperator problem.Rule = "not_operator"

	// ruleQuotaKeyApps: the key has as many apps as the operator lets it have.
	// Mend: remove apps that nobody needs, or ask the operator for more (--app-quota).
	ruleQuotaKeyApps problem.Rule = "quota_key_apps"

	// ruleQuotaKeyInstances: the key's apps would have more instances than the operator lets them have.
	// Mend: ask for fewer, remove apps that nobody needs, or ask the operator for more (--app-quota).
	ruleQuotaKeyInstances problem.Rule = "quota_key_instances"

	// ruleQuotaKeyMemory: the key's apps would have more memory than the operator lets them have.
	// Mend: ask for less, remove apps that nobody needs, or ask the operator for more (--app-quota).
	ruleQuotaKeyMemory problem.Rule = "quota_key_memory"

	// ruleQuotaKeyPorts: the key's apps would have more public ports than the operator lets them have.
	// Mend: remove apps that nobody needs, or ask the operator for more (--app-quota).
	ruleQuotaKeyPorts problem.Rule = "quota_key_ports"

	// ruleVolumeInUse: the stored volume belongs to an app that is there.
	// Mend: remove the app first: cupel rm --app APP.
	ruleVolumeInUse problem.Rule = "volume_in_use"

	// ruleVolumeUnclear: it was not written down which app the stored volume is of.
	// Mend: deploy or restart the apps that are there, which notes it; or, if none needs it: cupel volume rm ID --force.
	ruleVolumeUnclear problem.Rule = "volume_unclear"
)

// Rules about the machine that carries instances.
const (
	// ruleBackendWatch: the part of cupeld that carries instances stopped telling of changes.
	// Mend: read cupeld's log, and start cupeld again.
	ruleBackendWatch problem.Rule = "backend_watch"

	// ruleInstanceLost: the machine has lost what it wrote down about an instance, which counts as ended.
	// Mend: look at the machine's disk (dmesg), and at the event record_damaged.
	ruleInstanceLost problem.Rule = "instance_lost"

	// RuleNodeRestarted: the instance went down with its machine, or with what carries it there.
	// Mend: wait, it is started again by itself.
	RuleNodeRestarted problem.Rule = "node_restarted"
)
