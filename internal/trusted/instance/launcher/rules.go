package launcher

import (
	"cupel.dev/cupel/api/problem"
)

// Rules of what the host gives an instance to start with.
const (
	// ruleNotAnInstance: cupel-init was not started as the first process of an instance.
	// Mend: deploy with `cupel deploy`; nobody starts cupel-init by hand.
	ruleNotAnInstance problem.Rule = "not_an_instance"

	// ruleArguments: the launcher's arguments are not of its form.
	// Mend: start the instance by the launch profile that this launcher was built with; deploying again does.
	ruleArguments problem.Rule = "arguments"

	// ruleHostEnvironment: the host set a variable that it may not, or left out one that is needed.
	// Mend: start the instance by the launch profile; the app's environment is the session's.
	ruleHostEnvironment problem.Rule = "host_environment"

	// ruleGrantForm: CUPEL_GRANT is too long, or holds something else than printable characters.
	// Mend: give the token as it was made, without quotes or line ends.
	ruleGrantForm problem.Rule = "grant_form"

	// ruleUnexpectedMount: the instance has a mount that the launch profile does not have, or lacks one.
	// Mend: start the instance by the launch profile: the host may not put files into it.
	ruleUnexpectedMount problem.Rule = "unexpected_mount"

	// ruleMountinfo: the kernel lists the instance's mounts in a form that the launcher does not know.
	// Mend: use a kernel that this release is tested with, and report it.
	ruleMountinfo problem.Rule = "mountinfo"

	// ruleCgroup: the kernel describes the instance's control group in a form that the launcher does not know.
	// Mend: use a kernel that this release is tested with, and report it.
	ruleCgroup problem.Rule = "cgroup"

	// ruleSwap: the instance's memory, and with it its secrets, can be swapped to the host's disk.
	// Mend: start the instance by the launch profile, or turn the machine's swap off.
	ruleSwap problem.Rule = "swap"
)

// Rules of how the launcher itself was started: it holds that against the launch profile.
const (
	// ruleLaunchUser: the launcher runs as another user than root, or with further groups.
	// Mend: start the instance by the launch profile that this launcher was built with; deploying again does.
	ruleLaunchUser problem.Rule = "launch_user"

	// ruleLaunchCapabilities: the launcher's capabilities are other than the launch profile's.
	// Mend: start the instance by the launch profile that this launcher was built with; deploying again does.
	ruleLaunchCapabilities problem.Rule = "launch_capabilities"

	// ruleLaunchPrivileges: a setting of the launcher's process is another than the launch profile's.
	// Mend: start the instance by the launch profile that this launcher was built with; deploying again does.
	ruleLaunchPrivileges problem.Rule = "launch_privileges"

	// ruleLaunchLimits: processes of the instance may write core files.
	// Mend: start the instance by the launch profile that this launcher was built with; deploying again does.
	ruleLaunchLimits problem.Rule = "launch_limits"

	// ruleLaunchFilter: the system call filter is another than the launch profile's.
	// Mend: start the instance by the launch profile that this launcher was built with; deploying again does.
	ruleLaunchFilter problem.Rule = "launch_filter"
)

// Rules of attestation, and of what the CAS answers.
const (
	// ruleEvidenceForm: the node's attestation service answered with no SGX quote of version 3.
	// Mend: look at the node's attestation service, and at the platform that it uses.
	ruleEvidenceForm problem.Rule = "evidence_form"

	// ruleEvidenceBinding: the node's attestation service made a quote for another connection.
	// Mend: look at the node's attestation service: it is broken or hostile.
	ruleEvidenceBinding problem.Rule = "evidence_binding"

	// ruleLaunchBinding: the CAS that answers, or the session or service, is not the one that the instance was launched for.
	// Mend: find out who points instances at another CAS; deploy again for the one that is meant.
	ruleLaunchBinding problem.Rule = "launch_binding"

	// ruleReleaseReply: the CAS released in another version, or to another instance.
	// Mend: run a launcher and a CAS of one release.
	ruleReleaseReply problem.Rule = "release_reply"

	// ruleReleaseContent: something in the released configuration can't be placed or run: a path, a variable, a signal, a key.
	// Mend: mend the service in the session as it says.
	ruleReleaseContent problem.Rule = "release_content"

	// ruleOrder: the launcher would have asked the CAS for something before the release.
	// Mend: report it.
	ruleOrder problem.Rule = "order"

	// RuleOffline: the CAS did not answer for longer than the session lets a copy run without it.
	// Mend: look at the CAS and at the network to it, then start the instance again.
	RuleOffline problem.Rule = "offline"

	// ruleRenewal: renewed certificates can't be put into the app's root.
	// Mend: start the instance again before its certificate ends.
	ruleRenewal problem.Rule = "renewal"
)

// Rules of the app's volumes.
const (
	// ruleVolumeReset: the volume was started afresh, or given another key, since this instance was released.
	// Mend: start the instance again: it begins with the newest state.
	ruleVolumeReset problem.Rule = "volume_reset"

	// ruleTagReply: the CAS confirmed another generation of a volume than the one that was stored.
	// Mend: start the instance again, and run a launcher and a CAS of one release.
	ruleTagReply problem.Rule = "tag_reply"
)

// Rules of the app: its user, root, process and command.
const (
	// ruleImageUser: the image names a user or group that it does not know.
	// Mend: mend USER in the image's definition.
	ruleImageUser problem.Rule = "image_user"

	// ruleInjectionFile: a file of the session's can't be put at its place in the app's root.
	// Mend: choose a path whose parents are folders, and give the instance a larger --memory if there is no room.
	ruleInjectionFile problem.Rule = "injection_file"

	// ruleWorkingDirectory: the app's user can't enter the working directory.
	// Mend: name another one in the session, or give the folder to the image's user.
	ruleWorkingDirectory problem.Rule = "working_directory"

	// ruleUserNamespace: the host lets no user namespace be made for the app.
	// Mend: raise the host's user.max_user_namespaces, and start the instance by the newest launch profile.
	ruleUserNamespace problem.Rule = "user_namespace"

	// ruleAppAttributes: an attribute of the app's process can't be set, such as a limit or a priority.
	// Mend: start the instance by the launch profile.
	ruleAppAttributes problem.Rule = "app_attributes"

	// ruleMemoryMerge: the host merges equal pages of the instance's memory with those of others.
	// Mend: start cupeld without memory merging (systemd: MemoryKSM=no).
	ruleMemoryMerge problem.Rule = "memory_merge"

	// ruleNullDevice: /dev/null is something else.
	// Mend: start the instance by the launch profile that this launcher was built with; deploying again does.
	ruleNullDevice problem.Rule = "null_device"

	// rulePlan: a stage of the launcher was not started by the one before it.
	// Mend: nobody starts these stages by hand; report it if nobody did.
	rulePlan problem.Rule = "plan"

	// ruleStage2: the stage that builds the app's root ended without saying why.
	// Mend: see whether the memory limit leaves room for the app to start.
	ruleStage2 problem.Rule = "stage2"

	// RuleNotFound: the instance does not have the command, or the interpreter that it names.
	// Mend: look at the service's command: in the session, and at the runtime that it was deployed with.
	RuleNotFound problem.Rule = "command_not_found"

	// RuleNotExecutable: the command can't be executed: its mode, its form, no content, or too long arguments.
	// Mend: make it executable for the image's user, or name its interpreter first in the session's command.
	RuleNotExecutable problem.Rule = "command_not_executable"

	// ruleExec: the command can't be executed for a reason that the kernel gives.
	// Mend: read what the kernel says, and report it if that does not explain it.
	ruleExec problem.Rule = "exec"
)
