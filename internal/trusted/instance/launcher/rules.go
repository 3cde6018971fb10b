package launcher

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleAppAttributes      problem.Rule = "app_attributes"
	ruleArguments          problem.Rule = "arguments"
	ruleCgroup             problem.Rule = "cgroup"
	ruleEvidenceBinding    problem.Rule = "evidence_binding"
	ruleEvidenceForm       problem.Rule = "evidence_form"
	ruleExec               problem.Rule = "exec"
	ruleGrantForm          problem.Rule = "grant_form"
	ruleHostEnvironment    problem.Rule = "host_environment"
	ruleImageUser          problem.Rule = "image_user"
	ruleInjectionFile      problem.Rule = "injection_file"
	ruleInstanceGone       problem.Rule = "instance_gone"
	ruleInstanceLapsed     problem.Rule = "instance_lapsed"
	ruleInstanceWithdrawn  problem.Rule = "instance_withdrawn"
	ruleLaunchBinding      problem.Rule = "launch_binding"
	ruleLaunchCapabilities problem.Rule = "launch_capabilities"
	ruleLaunchFilter       problem.Rule = "launch_filter"
	ruleLaunchLimits       problem.Rule = "launch_limits"
	ruleLaunchPrivileges   problem.Rule = "launch_privileges"
	ruleLaunchUser         problem.Rule = "launch_user"
	ruleMemoryMerge        problem.Rule = "memory_merge"
	ruleMountinfo          problem.Rule = "mountinfo"
	ruleNotAnInstance      problem.Rule = "not_an_instance"
	ruleNullDevice         problem.Rule = "null_device"
	ruleOrder              problem.Rule = "order"
	rulePlan               problem.Rule = "plan"
	ruleReleaseContent     problem.Rule = "release_content"
	ruleReleaseReply       problem.Rule = "release_reply"
	ruleStage2             problem.Rule = "stage2"
	ruleSwap               problem.Rule = "swap"
	ruleTagReply           problem.Rule = "tag_reply"
	ruleUnexpectedMount    problem.Rule = "unexpected_mount"
	ruleUserNamespace      problem.Rule = "user_namespace"
	ruleVolumeMissing      problem.Rule = "volume_missing"
	ruleVolumeReset        problem.Rule = "volume_reset"
	ruleWorkingDirectory   problem.Rule = "working_directory"
)
