package manager

import (
	"cupel.dev/cupel/api/problem"
)

// Rules that this package raises.
const (
	ruleApp                 problem.Rule = "app"
	ruleAppNameAmbiguous    problem.Rule = "app_name_ambiguous"
	ruleAppNameTaken        problem.Rule = "app_name_taken"
	ruleAppQuota            problem.Rule = "app_quota"
	ruleAppRemoving         problem.Rule = "app_removing"
	ruleBackendWatch        problem.Rule = "backend_watch"
	ruleCertificate         problem.Rule = "certificate"
	ruleDeadline            problem.Rule = "deadline"
	ruleFollowers           problem.Rule = "followers"
	ruleGrantApp            problem.Rule = "grant_app"
	ruleGrantInstances      problem.Rule = "grant_instances"
	ruleInstance            problem.Rule = "instance"
	ruleKeyNotListed        problem.Rule = "key_not_listed"
	ruleLowPort             problem.Rule = "low_port"
	ruleLowPorts            problem.Rule = "low_ports"
	ruleMemoryOvercommitted problem.Rule = "memory_overcommitted"
	ruleNotMaker            problem.Rule = "not_maker"
	ruleNotOperator         problem.Rule = "not_operator"
	ruleParameter           problem.Rule = "parameter"
	ruleSession             problem.Rule = "session"
	ruleVersion             problem.Rule = "version"
	ruleVolumeInUse         problem.Rule = "volume_in_use"
	ruleVolumeUnclear       problem.Rule = "volume_unclear"
	ruleWritesVolume        problem.Rule = "writes_volume"
)
